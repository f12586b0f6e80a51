#!/bin/busybox sh
# The virtual machine's first process (see guest.rs). It uses busybox only: starting a process is slow under
# emulation, and busybox boots 3 s faster than bash.
# $vmdir, from the kernel's command line, is this run's directory on the host. It holds env, command and this file.
B=/bin/busybox
$B mount -t proc proc /proc
read -r line < /proc/cmdline
for word in $line; do case $word in vmdir=*) dir=${word#*=} ;; esac; done
. "$dir/env" # modules, terminal, rows, columns, end
$B mount -t devtmpfs dev /dev
$B insmod "$modules/overlay.ko"

# / is the host's, read-only; the guest's writes stay in its memory.
$B mount -t tmpfs tmpfs /run
$B mkdir /run/overlay
$B mount -t tmpfs -o size=60% tmpfs /run/overlay
new=/run/overlay/new
$B mkdir -p /run/overlay/upper /run/overlay/work $new
$B mount -t overlay -o lowerdir=/,upperdir=/run/overlay/upper,workdir=/run/overlay/work overlay $new
$B mount -t proc proc $new/proc
$B mount -t sysfs sys $new/sys
$B mount -t devtmpfs dev $new/dev
$B mount -t tmpfs run $new/run
$B mkdir -p $new/dev/pts $new/dev/shm $new/run/netns $new/run/lock
$B mount -t devpts devpts $new/dev/pts
$B mount -t tmpfs shm $new/dev/shm
$B mount -t bpf bpf $new/sys/fs/bpf
$B mount -t tracefs tracefs $new/sys/kernel/tracing
$B mount -t debugfs debugfs $new/sys/kernel/debug
$B mount -t cgroup2 cgroup $new/sys/fs/cgroup
$B ln -sfn "$modules" $new/usr/lib/modules
$B ln -sfn /proc/self/fd $new/dev/fd
for port in $new/sys/class/virtio-ports/*; do
    [ -e "$port/name" ] || continue # the console
    read -r name < "$port/name"
    $B ln -sf "/dev/${port##*/}" "$new/dev/$name"
done
$B ip link set lo up
$B hostname gateway-vm

# pivot_root instead of chroot: the kernel runs modprobe in the root of its own threads.
$B mkdir $new/run/old
cd $new || exit
$B pivot_root . run/old
$B umount -l /run/old
$B cat <<'STAGE2' >/run/stage2
. "$1/env"
B=/bin/busybox
# A port can be opened only once, so both stay open here: 3 for requests and answers, 4 for output.
exec 3<>/dev/vm.control
if [ "$terminal" = yes ]; then
    exec 4<>/dev/hvc0
    $B stty rows "$rows" cols "$columns" <&4
    session="$B setsid -c" input=4
else
    exec 4>/dev/vm.output
    session="$B setsid" input=0
fi
# In the background, since a shell makes its background commands ignore SIGINT, but not those in the foreground.
while read -r word rows columns <&3; do
    case $word in
    INT | TERM | HUP) $B kill "-$word" -- "-$($B cat /run/vm.pid)" ;;
    size) $B stty rows "$rows" cols "$columns" <&4 ;;
    esac
done &
echo started >&3
# The status follows the last byte of output on the same port, since on another port it might arrive first. The
# session's leader writes it, since a terminal discards its buffer when its session ends.
leader='echo $$ >/run/vm.pid; trap : INT TERM HUP QUIT; "$1"; printf "\000%s %s\n" "$2" $?'
$B sh -c 'exec "$@" 3>&- 4>&-' sh $session $B sh -c "$leader" sh "$1/command" "$end" <&$input >&4 2>&4
# Nobody reads this second mark unless the leader was killed.
status=$?
[ "$terminal" = no ] || exec 4>/dev/hvc0
printf '\000%s %s\n' "$end" "$status" >&4
$B sleep 10
echo o >/proc/sysrq-trigger
$B sleep 10
STAGE2
exec $B chroot . $B sh /run/stage2 "$dir" </dev/null
