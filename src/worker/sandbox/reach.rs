//! What a worker reaches of files, networks and other processes, by Landlock: nothing.
//!
//! A kernel that knows less of it denies what it knows.

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};

/// The newest whose rights are asked for: with 4 come TCP ports, with 5 devices, with 6 signals and abstract sockets.
const NEWEST: ABI = ABI::V6;

pub(super) fn nothing() -> Result<(), String> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create);
    let status = ruleset.and_then(|ruleset| ruleset.restrict_self()).map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err("the kernel has none".into()),
    }
}
