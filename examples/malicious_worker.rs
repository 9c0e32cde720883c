//! A worker that has fallen to a stranger, for the tests of the sandbox, never shipped. It enters the sandbox as the real
//! one does, unless its first argument is `free`; then, for each job:
//!
//! A job whose first unit is `try` and the numbers of two processes has it try all that a stranger would: its
//! rendition's set-up is the report, a line each: what was tried, and the error's number, 0 where it was let. `eat`: it
//! takes memory until there is none. `spin`: it takes time. `end`: it kills itself.

use std::ffi::CString;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libc::c_long;
use segmill::ipc::FromWorker;
use segmill::ipc::worker_end::Reader;
use segmill::job::{EncodedSample, Inventory, Job, Stats};
use segmill::worker::sandbox::{self, Limits};

fn main() -> ExitCode {
    let inherited = sandbox::nothing_inherited();
    let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("standard input is the socket");
    let mut socket = UnixStream::from(socket);
    let mut jobs = Reader::new(socket.try_clone().expect("a file number"));
    let free = std::env::args().nth(1).as_deref() == Some("free");
    let limits = Limits { address_space: 1 << 30, cpu: Duration::from_secs(1) };
    let confinement = if free { Default::default() } else { sandbox::enter(&limits, inherited) };
    segmill::worker::die_with_pool(&socket).expect("a thread");
    send(&mut socket, &FromWorker::Hello(Inventory { confinement, ..Default::default() }));
    while let Ok(Some(job)) = jobs.read_job() {
        let report = obey(&job, free);
        send(&mut socket, &FromWorker::SetUp { rendition: 0, config: report.into() });
        let sample = EncodedSample { pts: job.units[0].pts, sync: true, data: Bytes::from_static(b"sample") };
        send(&mut socket, &FromWorker::Sample { rendition: 0, sample });
        send(&mut socket, &FromWorker::Finished(Stats { units_in: job.units.len() as u64, ..Default::default() }));
    }
    ExitCode::SUCCESS
}

fn obey(job: &Job, free: bool) -> String {
    let directive = std::str::from_utf8(&job.units[0].data).expect("text");
    let mut words = directive.split(' ');
    match words.next() {
        Some("try") => {
            let mut pid = || words.next().and_then(|word| word.parse().ok()).expect("a process");
            let attempts = attempts(pid(), pid());
            let tried = attempts.into_iter().filter(|attempt| attempt.harmless || !free);
            tried.map(|attempt| format!("{}\t{}\n", attempt.name, (attempt.attempt)())).collect()
        }
        Some("eat") => {
            let mut eaten: Vec<Vec<u8>> = Vec::new();
            loop {
                eaten.push(black_box(vec![1; 16 << 20]));
            }
        }
        Some("spin") => loop {
            black_box(());
        },
        Some("end") => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            "still here".into()
        }
        _ => panic!("no such directive: {directive}"),
    }
}

fn send(socket: &mut UnixStream, frame: &FromWorker) {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).expect("small enough");
    std::io::Write::write_all(socket, &bytes).expect("the pool listens");
}

/// Something that is tried.
struct Attempt {
    name: &'static str,
    /// Whether any process may do it, and nothing comes of it.
    harmless: bool,
    /// The error's number; 0: it went well.
    attempt: Box<dyn Fn() -> i32>,
}

/// A system call as it comes. Attempts are made with arguments that are good where there is no sandbox.
#[expect(unsafe_code, reason = "what a stranger's code would do, in a program for tests alone")]
fn call(number: c_long, arguments: &[usize]) -> i32 {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: pointers among the arguments are to values that live for the call, of the size that it reads or writes;
    // what it does to this process beside that is what this program is for.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result == -1 { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// A signed argument.
fn int(value: i32) -> usize {
    value as usize
}

fn attempts(server: i32, sibling: i32) -> Vec<Attempt> {
    use libc::*;
    let mut all = Vec::new();
    let mut add = |name: &'static str, harmless: bool, attempt: Box<dyn Fn() -> i32>| {
        all.push(Attempt { name, harmless, attempt });
    };
    macro_rules! tries {
        ($($name:literal, $harmless:expr, $number:expr, [$($argument:expr),* $(,)?];)*) => {
            $(add($name, $harmless, Box::new(move || call($number, &[$($argument as usize),*])));)*
        };
    }
    macro_rules! opens {
        ($($name:literal, $harmless:expr, $path:expr, $flags:expr;)*) => {
            $(
                let path = CString::new($path).expect("no zero");
                let open = move || call(SYS_openat, &[int(AT_FDCWD), path.as_ptr() as usize, int($flags), 0o600]);
                add($name, $harmless, Box::new(open));
            )*
        };
    }
    let (harmless, harmful) = (true, false);
    let scratch = format!("/tmp/malicious-{}", std::process::id());
    opens! {
        "read /etc/passwd", harmless, "/etc/passwd", O_RDONLY;
        "list /", harmless, "/", O_RDONLY | O_DIRECTORY;
        "name a place without opening it", harmless, "/", O_PATH;
        "read the server's environment", harmless, format!("/proc/{server}/environ"), O_RDONLY;
        "read the server's map of memory", harmless, format!("/proc/{server}/maps"), O_RDONLY;
        "write the server's memory", harmful, format!("/proc/{server}/mem"), O_RDWR;
        "read a sibling's map of memory", harmful, format!("/proc/{sibling}/maps"), O_RDONLY;
        "read its own memory's map", harmless, "/proc/self/maps", O_RDONLY;
        "write a new file", harmless, scratch.clone(), O_WRONLY | O_CREAT;
        "write a nameless file", harmful, "/tmp", O_WRONLY | O_TMPFILE;
        "write a device", harmless, "/dev/null", O_WRONLY;
    }
    let path = |text: &str| -> usize { CString::new(text).expect("no zero").into_raw() as usize };
    let (passwd, shell, root, new) = (path("/etc/passwd"), path("/bin/true"), path("/"), path(&scratch));
    let other = path(&format!("{scratch}-2"));
    let none: usize = path("");
    let empty: usize = Box::leak(Box::new([0_usize; 32])).as_ptr() as usize;
    let ones: usize = Box::leak(Box::new([1_u64; 32])).as_ptr() as usize;
    let argv: usize = Box::leak(Box::new([shell, 0])).as_ptr() as usize;
    // A vector of one piece of 64 bytes, and where a stack begins.
    let piece: usize = Box::leak(Box::new([empty, 64])).as_ptr() as usize;
    let far: usize = Box::leak(Box::new([main as fn() -> ExitCode as usize, 64])).as_ptr() as usize;
    // 127.0.0.1, port 9; and the abstract socket "x".
    let internet = Box::leak(Box::new([2_u8, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])).as_ptr() as usize;
    let local = Box::leak(Box::new([1_u8, 0, 0, b'x'])).as_ptr() as usize;
    let message = Box::leak(Box::new([0, 0, piece, 1, 0, 0, 0])).as_ptr() as usize;
    // struct perf_event_attr: PERF_TYPE_SOFTWARE, its size, PERF_COUNT_SW_CPU_CLOCK.
    let counter = Box::leak(Box::new([1_u64 | 64 << 32, 0, 0, 0, 0, 0, 0, 0])).as_ptr() as usize;
    // struct file_handle of 8 bytes.
    let handle = Box::leak(Box::new([8_u32, 1, 0, 0])).as_ptr() as usize;
    // struct clone_args: SIGCHLD for exit_signal.
    let clone_args = Box::leak(Box::new([0_u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0])).as_ptr() as usize;
    let capabilities = Box::leak(Box::new([0x2008_0522_u32, 0, 1, 1, 1, 1, 1, 1, 1])).as_ptr() as usize;
    tries! {
        "look at /etc/passwd", harmless, SYS_newfstatat, [AT_FDCWD, passwd, empty, 0];
        "ask whether /etc/passwd is there", harmless, SYS_faccessat, [AT_FDCWD, passwd, 0];
        "read a link", harmless, SYS_readlinkat, [AT_FDCWD, path("/proc/self/exe"), empty, 64];
        "make a directory", harmful, SYS_mkdirat, [AT_FDCWD, new, 0o700];
        "delete a file", harmful, SYS_unlinkat, [AT_FDCWD, new, 0];
        "rename a file", harmful, SYS_renameat2, [AT_FDCWD, new, AT_FDCWD, other, 0];
        "link to a file", harmful, SYS_symlinkat, [passwd, AT_FDCWD, new];
        "change a file's mode", harmful, SYS_fchmodat, [AT_FDCWD, new, 0o777];
        "watch a directory", harmless, SYS_inotify_init1, [0];
        "open a file by its handle", harmful, SYS_open_by_handle_at, [AT_FDCWD, handle, O_RDONLY];
        "make a file in memory", harmless, SYS_memfd_create, [none, 0];
        "leave for another root", harmful, SYS_chroot, [root];
        "open a TCP socket", harmless, SYS_socket, [AF_INET, SOCK_STREAM, 0];
        "open a TCP socket over IPv6", harmful, SYS_socket, [AF_INET6, SOCK_STREAM, 0];
        "open a UDP socket", harmless, SYS_socket, [AF_INET, SOCK_DGRAM, 0];
        "open a UNIX socket", harmless, SYS_socket, [AF_UNIX, SOCK_STREAM, 0];
        "open a raw socket", harmful, SYS_socket, [AF_INET, SOCK_RAW, IPPROTO_ICMP];
        "open a packet socket", harmful, SYS_socket, [AF_PACKET, SOCK_RAW, 0];
        "open a netlink socket", harmless, SYS_socket, [AF_NETLINK, SOCK_RAW, 0];
        "make a pair of sockets that can send elsewhere", harmless, SYS_socketpair, [AF_UNIX, SOCK_DGRAM, 0, empty];
        "connect its socket to an address", harmful, SYS_connect, [0, internet, 16];
        "connect its socket to a name", harmful, SYS_connect, [0, local, 4];
        "bind its socket", harmful, SYS_bind, [0, local, 4];
        "listen on its socket", harmful, SYS_listen, [0, 1];
        "accept on its socket", harmful, SYS_accept4, [0, 0, 0, 0];
        "send to an address", harmful, SYS_sendto, [0, empty, 0, 0, internet, 16];
        "send a message, which can have files", harmful, SYS_sendmsg, [0, message, MSG_DONTWAIT];
        "receive a message, which can have files", harmful, SYS_recvmsg, [0, message, MSG_DONTWAIT];
        "start a program", harmful, SYS_execve, [shell, argv, 0];
        "start a program by a descriptor", harmful, SYS_execveat, [0, none, argv, 0, AT_EMPTY_PATH];
        "make a process", harmful, SYS_clone, [SIGCHLD];
        "make a process that shares its memory", harmful, SYS_clone, [CLONE_VM | CLONE_VFORK | SIGCHLD];
        "make a process by clone3", harmful, SYS_clone3, [clone_args, 64];
        "make a process in a user namespace", harmful, SYS_clone, [CLONE_NEWUSER | SIGCHLD];
        "make a thread in a network namespace", harmful, SYS_clone,
            [CLONE_NEWNET | CLONE_VM | CLONE_THREAD | CLONE_SIGHAND];
        "trace the server", harmful, SYS_ptrace, [PTRACE_SEIZE, server, 0, 0];
        "trace a sibling", harmful, SYS_ptrace, [PTRACE_SEIZE, sibling, 0, 0];
        "have itself traced", harmful, SYS_ptrace, [PTRACE_TRACEME, 0, 0, 0];
        "read the server's memory", harmful, SYS_process_vm_readv, [server, piece, 1, far, 1, 0];
        "read a sibling's memory", harmful, SYS_process_vm_readv, [sibling, piece, 1, far, 1, 0];
        "write a sibling's memory", harmful, SYS_process_vm_writev, [sibling, piece, 1, far, 1, 0];
        "compare itself with the server", harmful, SYS_kcmp, [std::process::id(), server, 0, 0, 0];
        "ask whether the server can be signalled", harmless, SYS_kill, [server, 0];
        "signal the server", harmful, SYS_kill, [server, SIGCONT];
        "signal a sibling", harmful, SYS_kill, [sibling, SIGCONT];
        "signal all processes", harmful, SYS_kill, [-1_i32, 0];
        "signal its group", harmful, SYS_kill, [0, 0];
        "signal a thread of the server", harmful, SYS_tgkill, [server, server, SIGCONT];
        "signal a thread of a sibling", harmful, SYS_tgkill, [sibling, sibling, SIGCONT];
        "signal a thread of any process", harmful, SYS_tkill, [server, SIGCONT];
        "queue a signal to the server", harmful, SYS_rt_sigqueueinfo, [server, SIGCONT, ones];
        "take hold of the server", harmless, SYS_pidfd_open, [server, 0];
        "signal by a descriptor", harmful, SYS_pidfd_send_signal, [0, SIGCONT, 0, 0];
        "take a descriptor of another", harmful, SYS_pidfd_getfd, [0, 0, 0];
        "have the server signalled of its socket", harmful, SYS_fcntl, [0, F_SETOWN, server];
        "have signals sent by its socket", harmful, SYS_ioctl, [0, FIOASYNC, empty];
        "have signals sent by its socket's flags", harmful, SYS_fcntl, [0, F_SETFL, O_RDWR | O_ASYNC];
        "slow the server down", harmful, SYS_setpriority, [PRIO_PROCESS, server, 19];
        "move the server to one processor", harmful, SYS_sched_setaffinity, [server, 8, ones];
        "change how a sibling is scheduled", harmful, SYS_sched_setattr, [sibling, ones, 0];
        "change a limit of the server", harmful, SYS_prlimit64, [server, RLIMIT_CORE, empty, 0];
        "raise its own limits", harmful, SYS_prlimit64, [0, RLIMIT_AS, ones, 0];
        "move a sibling's pages", harmful, SYS_migrate_pages, [sibling, 1, ones, ones];
        "mount", harmful, SYS_mount, [none, root, none, MS_BIND, 0];
        "unmount", harmful, SYS_umount2, [root, MNT_DETACH];
        "enter a user namespace", harmful, SYS_unshare, [CLONE_NEWUSER];
        "enter a network namespace", harmful, SYS_unshare, [CLONE_NEWNET];
        "enter a mount namespace", harmful, SYS_unshare, [CLONE_NEWNS];
        "enter a sibling's namespace", harmful, SYS_setns, [0, CLONE_NEWNET];
        "set up a ring of calls", harmful, SYS_io_uring_setup, [1, Box::leak(Box::new([0_u8; 120])).as_ptr() as usize];
        "load a program into the kernel", harmful, SYS_bpf, [5, empty, 64];
        "count events", harmful, SYS_perf_event_open, [counter, 0, -1_i32, -1_i32, 0];
        "handle faults of pages", harmful, SYS_userfaultfd, [0];
        "add a key", harmful, SYS_add_key, [path("user"), path("x"), empty, 1, -1_i32];
        "ask for keys", harmful, SYS_keyctl, [0, -3_i32, 0];
        "share memory", harmful, SYS_shmget, [IPC_PRIVATE, 4096, 0o600];
        "make a message queue", harmful, SYS_msgget, [IPC_PRIVATE, 0o600];
        "read the kernel's log", harmful, SYS_syslog, [3, empty, 64];
        "set the clock", harmful, SYS_clock_settime, [CLOCK_REALTIME, empty];
        "load a module", harmful, SYS_init_module, [empty, 0, none];
        "account for processes", harmful, SYS_acct, [0];
        "become root", harmful, SYS_setuid, [0];
        "become root's group", harmful, SYS_setgid, [0];
        "join a group", harmful, SYS_setgroups, [1, empty];
        "take capabilities", harmful, SYS_capset, [capabilities, capabilities + 8];
        "become another kind of program", harmful, SYS_personality, [0x0040000];
        "let itself be traced", harmful, SYS_prctl, [PR_SET_DUMPABLE, 1, 0, 0, 0];
        "keep capabilities", harmful, SYS_prctl, [PR_SET_KEEPCAPS, 1, 0, 0, 0];
        "put a filter over the filter", harmful, SYS_seccomp, [1, 0, empty];
    }
    #[cfg(target_arch = "x86_64")]
    tries! {
        "read /etc/passwd by a call of x32", harmful, 0x4000_0000 | SYS_openat, [AT_FDCWD, passwd, O_RDONLY];
        "read /etc/passwd by the old call", harmless, SYS_open, [passwd, O_RDONLY];
        "make a process by the old call", harmful, SYS_fork, [];
    }
    all
}
