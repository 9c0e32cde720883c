//! Starts a program as if the kernel were older, for the tests of the sandbox, never shipped: the system calls whose
//! names come before `--` are not there (ENOSYS).
//!
//! `old_kernel seccomp landlock unshare -- program arguments…`

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter_all_threads};

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let names: Vec<_> = arguments.by_ref().take_while(|argument| argument != "--").collect();
    let calls = names.iter().map(|name| match name.to_str() {
        Some("seccomp") => libc::SYS_seccomp,
        Some("landlock") => libc::SYS_landlock_create_ruleset,
        Some("unshare") => libc::SYS_unshare,
        _ => panic!("no such call: {name:?}"),
    });
    let absent: BTreeMap<_, _> = calls.map(|call| (call, Vec::new())).collect();
    let machine = TargetArch::try_from(std::env::consts::ARCH).expect("a machine with seccomp");
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(absent, SeccompAction::Allow, enosys, machine).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a filter that is short enough");
    apply_filter_all_threads(&program).expect("this kernel has it");
    let error = Command::new(arguments.next().expect("a program")).args(arguments).exec();
    panic!("{error}");
}
