"""The first object: /dev/kvm itself.  It answers questions about this host and makes virtual machines."""

import errno
import os

from kvmhost._native import lib
from kvmhost.kvm.base import Owner, ioctl, new
from kvmhost.kvm.capabilities import Cap
from kvmhost.kvm.cpuid import CpuidEntry, read_table
from kvmhost.kvm.errors import KvmError, explain
from kvmhost.kvm.vm import Vm


class Kvm(Owner):
    """An open /dev/kvm.

    path: the device.  fd: take over this open descriptor instead, for a program that opened it as root and
    then gave its rights up; it is closed with the object.  VMs made from it live on after it is closed.

    Raises KvmError with cause and next step when the device cannot be opened or is not a KVM of version 12.

    >>> with Kvm() as kvm:
    ...     kvm.api_version
    12
    """

    def __init__(self, path: str = "/dev/kvm", *, fd: int | None = None) -> None:
        super().__init__(-1)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC) if fd is None else fd
        except OSError as error:
            raise explain("open", error.errno or 0) from error
        try:
            if self.api_version != lib.KVM_API_VERSION:
                raise KvmError(
                    "KVM_GET_API_VERSION",
                    cause=f"this KVM speaks version {self.api_version}, not {lib.KVM_API_VERSION}",
                    next_step="use a kernel of this century",
                )
        except KvmError:
            self.close()
            raise

    @property
    def api_version(self) -> int:
        """KVM_GET_API_VERSION: 12 since 2007, and forever.

        >>> kvm.api_version
        12
        """
        return ioctl(self.fd, "KVM_GET_API_VERSION", 0)

    def check_extension(self, cap: Cap | int) -> int:
        """What this KVM says about a capability: 0 for no, else 1, a number or a mask (KVM_CHECK_EXTENSION).

        >>> kvm.check_extension(Cap.USER_MEMORY)
        1
        """
        return ioctl(self.fd, "KVM_CHECK_EXTENSION", int(cap))

    @property
    def vcpu_mmap_size(self) -> int:
        """Bytes of a vCPU's run page and what follows it (KVM_GET_VCPU_MMAP_SIZE).

        >>> kvm.vcpu_mmap_size % 4096
        0
        """
        return ioctl(self.fd, "KVM_GET_VCPU_MMAP_SIZE", 0)

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """Every CPUID leaf this host and its KVM can give a vCPU (KVM_GET_SUPPORTED_CPUID).

        >>> [entry.function for entry in kvm.supported_cpuid()][:2]
        [0, 1]
        """
        return read_table(self.fd, "KVM_GET_SUPPORTED_CPUID")

    def msr_indices(self) -> tuple[int, ...]:
        """The MSRs a vCPU has, those that must be saved and restored (KVM_GET_MSR_INDEX_LIST).

        >>> 0x174 in kvm.msr_indices()          # IA32_SYSENTER_CS
        True
        """
        return self._msr_list("KVM_GET_MSR_INDEX_LIST")

    def msr_feature_indices(self) -> tuple[int, ...]:
        """The MSRs that tell features of host and KVM; read them with msr_features()
        (KVM_CAP_GET_MSR_FEATURES).

        >>> isinstance(kvm.msr_feature_indices(), tuple)
        True
        """
        return self._msr_list("KVM_GET_MSR_FEATURE_INDEX_LIST")

    def _msr_list(self, name: str) -> tuple[int, ...]:
        room = 256
        while True:
            listed = new("struct kvm_msr_list *", {"nmsrs": room, "indices": room})
            try:
                ioctl(self.fd, name, listed)
            except KvmError as error:
                if error.errno != errno.E2BIG or listed.nmsrs <= room:
                    raise
                room = listed.nmsrs
                continue
            return tuple(listed.indices[0 : listed.nmsrs])

    def create_vm(self) -> Vm:
        """A new, empty virtual machine (KVM_CREATE_VM, type 0).  A signal does not break it off: it is
        tried again.

        The first VM on a machine switches virtualisation on for all its CPUs.

        >>> with kvm.create_vm() as vm:
        ...     vm.closed
        False
        """
        return Vm(ioctl(self.fd, "KVM_CREATE_VM", 0, retry=True), self.vcpu_mmap_size)
