//! Who a worker is: no one, without a capability, in a network that has nothing in it.

use rustix::process::{DumpableBehavior, Gid, Uid, geteuid, getuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capabilities, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

/// nobody and nogroup by their usual numbers: there need not be names for them.
const NOBODY: u32 = 65534;

#[expect(deprecated, reason = "its successor is unsafe for CLONE_FILES' sake, which nobody asks for here")]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    rustix::thread::unshare(flags)
}

/// Leaves the network and the privileges behind; says how each went. It is the calling thread that leaves them.
pub(super) fn leave() -> (Result<(), String>, Result<(), String>) {
    let network = unshare(UnshareFlags::NEWNET);
    let nobody = be_nobody();
    // Whoever may not make a network may make one in a user namespace of its own, where the system lets it.
    let network = network.or_else(|_| unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET));
    let nothing = CapabilitySet::empty();
    let sets = CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing };
    let bare = set_capabilities(None, sets).map_err(|error| format!("capabilities: {error}"));
    (network.map_err(|error| format!("unshare: {error}")), nobody.and(bare))
}

/// No program gives more rights than this process has, and no process of the same user sees into it.
pub(super) fn no_new() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| format!("dumpable: {error}"))?;
    set_no_new_privs(true).map_err(|error| error.to_string())
}

/// Where this is root. Any other user stays who it is.
fn be_nobody() -> Result<(), String> {
    if !geteuid().is_root() && !getuid().is_root() {
        return Ok(());
    }
    let held = capabilities(None).map_err(|error| format!("capabilities: {error}"))?.effective;
    // The pool has what this process has, and must be able to kill what becomes another's.
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
    if !held.contains(needed) {
        return Err(
            "root without the capabilities to become nobody (setuid, setgid) and to kill its processes (kill)".into()
        );
    }
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[]).map_err(|error| format!("setgroups: {error}"))?;
    set_thread_res_gid(gid, gid, gid).map_err(|error| format!("setresgid: {error}"))?;
    set_thread_res_uid(uid, uid, uid).map_err(|error| format!("setresuid: {error}"))
}
