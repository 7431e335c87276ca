"""A device for tests: what it reads it writes back reversed, and it tells what happens to it."""

from kvmhost.host.abi import Abi
from kvmhost.launcher.devices.device import Device, Wiring


class Mirror(Device):
    """`ids`: its virtio id.  `bits`: the features it offers; `bytes_of_config`: its configuration."""

    queues = 2

    def __init__(self, virtio_id: int = 2, bits: int = 0, config: bytes = b"", label: str = "mirror") -> None:
        super().__init__()
        self.virtio_id = virtio_id  # type: ignore[misc]
        self.bits, self.bytes_of_config, self.label = bits, config, label
        self.accepted: list[int] = []
        self.stops = self.closes = 0
        self.written: list[tuple[int, bytes]] = []

    def features(self, abi: Abi) -> int:
        return self.bits

    def config(self, abi: Abi) -> bytes:
        return self.bytes_of_config

    def write_config(self, offset: int, data: bytes) -> None:
        self.written.append((offset, data))

    def tlv(self, abi: Abi) -> tuple[tuple[int, bytes], ...]:
        return ((0x41, self.bytes_of_config),) if self.bytes_of_config else ()

    def start(self, wiring: Wiring) -> None:
        self.accepted.append(wiring.accepted)
        super().start(wiring)

    def stop(self) -> None:
        self.stops += 1
        super().stop()

    def close(self) -> None:
        self.closes += 1
        super().close()

    def serve(self, wiring: Wiring, index: int) -> None:
        queue = wiring.queues[index]
        while queue.wait():
            while (chain := queue.pop()) is not None:
                text = queue.read(chain)
                if text == b"fail":
                    raise OSError("the mirror is blind")
                queue.push(chain, queue.write(chain, text[::-1]))
            queue.interrupt()
