#!/bin/bash
# A machine to throw away: systemd as process 1 of namespaces of its own, on a copy of this system that is in memory. What is
# installed and written there is gone with it. $1: an empty directory for its mounts.
set -e
upper=$1/memory root=$1/root
mkdir "$upper" "$root"
mount --make-rprivate /
mount -t tmpfs none "$upper"
mkdir "$upper/changed" "$upper/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$upper/changed,workdir=$upper/work" "$root"

mount -t proc proc "$root/proc"
# What the kernel shares with the other machine, it may not change.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ip link set lo up

# It starts what it is told to, and the journal.
units=$root/etc/systemd/system
# Where this system is an image for containers, that has packages start and stop nothing.
rm -f "$root/usr/sbin/policy-rc.d"
rm -rf "$units" "$root"/lib/systemd/system/*.wants
mkdir "$units"
for target in sysinit basic network-online; do
  printf '[Unit]\nDescription=nothing\n' >"$units/$target.target"
done
printf '[Unit]\nDescription=the machine\nWants=systemd-journald.socket\nDefaultDependencies=no\n' >"$units/machine.target"

# A changed root is not enough: systemd gives services mounts of their own.
mkdir "$root/run/outside"
cd "$root"
pivot_root . run/outside
umount -l /run/outside
rmdir /run/outside
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=machine.target --log-target=null --show-status=no
