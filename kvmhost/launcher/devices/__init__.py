"""Devices: what a Guest finds besides memory and a CPU.

A device (device.py) knows what a console or a disk does with a buffer, and nothing about how a Guest found
it.  Buffers come through rings in the Guest's memory (ring.py), which are read as what they are: somebody
else's data.  Two buses lead from a Guest to a device: one page of descriptors in front of them (2.6.24 to
3.19), or virtio 1.0 over PCI (4.0 on); which one it is the Guest's ABI says, and attach() knows both.
"""
