"""kvmhost: lguest's Guests on KVM."""
