#!/bin/sh
# The first program of the Guest in ci/soak: it works until its time is over, looks at its own results, and
# tells them on the console in lines that begin with "soak".  Whatever it could not get right it calls wrong.
#
# The disk is used without a file system: it has 16 places of 128 KiB, and the sum of what a place must
# contain is told at the end, for whoever looks into the image afterwards.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
PLACES=16

say() { echo "soak $*"; }
wrong() { say "wrong: $*"; }

mkdir -p /proc /sys /dev /soak
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -c /dev/null ] || mknod /dev/null c 1 3
[ -c /dev/urandom ] || mknod /dev/urandom c 1 9
IFS=: read -r major minor </sys/block/vda/dev || wrong "there is no disk"
[ -b /dev/vda ] || mknod /dev/vda b "$major" "$minor"
for word in $(cat /proc/cmdline); do
	case $word in soak=*) seconds=${word#soak=} ;; esac
done

# A child changes what it shares with its parent, another one is a program of its own.
fork_and_exec() {
	text=parent
	(
		text=child$1
		[ $text = child"$1" ] && exit 7
	)
	[ $? = 7 ] || wrong "child $1 ended otherwise"
	[ $text = parent ] || wrong "child $1 changed its parent"
	true | cat || wrong "two programs in a pipe"
}

# Two megabytes go through the memory of several programs and must come out the same.
use_memory() {
	dd if=/dev/urandom of=/soak/memory bs=2097152 count=1 2>/dev/null
	first=$(md5sum </soak/memory)
	second=$(dd if=/soak/memory bs=1048576 2>/dev/null | md5sum)
	[ "$first" = "$second" ] || wrong "memory, round $1: $first became $second"
}

# Write a place and read it back from the disk itself.
use_disk() {
	place=$(($1 % PLACES))
	dd if=/dev/urandom of=/soak/chunk bs=65536 count=2 2>/dev/null
	sum=$(md5sum </soak/chunk)
	dd if=/soak/chunk of=/dev/vda bs=65536 seek=$((2 * place)) conv=notrunc 2>/dev/null && sync ||
		wrong "writing place $place"
	echo "${sum%% *}" >/soak/sum.$place
	echo 3 >/proc/sys/vm/drop_caches
	for at in "$place" $((($1 * 7) % PLACES)); do
		[ -f /soak/sum."$at" ] || continue
		read -r sum </soak/sum."$at"
		found=$(dd if=/dev/vda bs=65536 skip=$((2 * at)) count=2 2>/dev/null | md5sum)
		[ "$sum" = "${found%% *}" ] || wrong "place $at of the disk has $found instead of $sum"
	done
}

# work WHAT: again and again until time is over; how often is kept in a file.
work() {
	round=0
	while [ ! -e /soak/over ]; do
		round=$((round + 1))
		"$1" $round
		echo $round >/soak/rounds."$1"
	done
}

# Builtins only: it must not cost what it measures.
tick() {
	read -r up _ </proc/uptime
	line="tick $up"
	for what in fork_and_exec use_memory use_disk; do
		rounds=
		[ -f /soak/rounds.$what ] && read -r rounds </soak/rounds.$what
		line="$line $what ${rounds:-0}" # its writer may just have emptied it
	done
	say "$line"
}

work fork_and_exec &
work use_memory &
work use_disk &
read -r up _ </proc/uptime
finish=$((${up%.*} + seconds))
while [ "${up%.*}" -lt $finish ]; do
	tick
	sleep 10
	read -r up _ </proc/uptime
done
: >/soak/over
wait
tick
for sum in /soak/sum.*; do
	read -r found <"$sum"
	say "place ${sum##*.} $found"
done
dmesg | grep -iE 'oops|bug:|warning:|error|lost|timeout|stuck|hung' | while read -r line; do
	wrong "the kernel said: $line"
done
say done
poweroff -f
