"""The user network with the real passt: what a Guest without root can do with it."""

import hashlib
import random
import socket
from collections.abc import Iterator

import pytest
from launcher.devices.nic import MAC, RELEASES, Nic, Servers, Stack, processes_called

from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices.net_user import DNS, GATEWAY, GATEWAY_MAC, GUEST, UserLink


@pytest.fixture(params=RELEASES)
def stack(memory: VmMemory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    with Nic(memory, UserLink(MAC), request.param) as nic:
        made = Stack(nic, GUEST, GATEWAY)
        made.arp()
        yield made
        assert nic.guest.ended == []


def test_the_gateway_says_where_it_is(stack: Stack) -> None:
    assert stack.gateway_mac == bytes.fromhex(GATEWAY_MAC.replace(":", ""))


def test_passts_own_addresses_answer_a_ping(stack: Stack) -> None:
    """Though passt itself sends such pings into the world, and only where programs may ping at all."""
    for address in (GATEWAY, DNS):
        stack.gateway = socket.inet_aton(address)
        for size in (0, 1, 56, 1472):
            data = random.Random(size).randbytes(size)
            assert stack.ping(data) == data


def test_datagrams_there_and_back(stack: Stack) -> None:
    with Servers() as servers:
        for size in (1, 2, 511, 1472):
            data = random.Random(size).randbytes(size)
            assert stack.udp(servers.udp.getsockname()[1], data) == hashlib.sha256(data).digest()


def test_a_stream_of_megabytes_arrives_whole(stack: Stack) -> None:
    content = random.Random(1).randbytes(2 << 20)
    with Servers(content) as servers:
        assert stack.tcp_read(servers.tcp.getsockname()[1], b"please") == content


def test_passt_lives_as_long_as_the_card(memory: VmMemory) -> None:
    nic = Nic(memory, UserLink(MAC))
    assert processes_called("passt") | processes_called("passt.avx2")
    nic.close()
    nic.close()
    assert not processes_called("passt") | processes_called("passt.avx2")
