//! The worker's jail, which it puts on itself: after GStreamer's plugins are loaded, before the first job is read.
//!
//! What each layer is for is in docs/security.md. Whoever calls [`enter`] has opened and loaded all that is needed later:
//! nothing can be opened in here.

mod limits;
mod privileges;
mod reach;
mod system_calls;

pub use self::limits::Limits;
use crate::job::{Confinement, Layer};

/// Puts on each layer that the kernel offers. Those that hold for one thread alone need that there is but one.
/// `inherited`: what [`nothing_inherited`] said at the start of the process.
pub fn enter(limits: &Limits, inherited: Result<(), String>) -> Confinement {
    let (network, user, landlock) = match alone() {
        Ok(()) => {
            let (network, user) = privileges::leave();
            (network, user, reach::nothing())
        }
        Err(reason) => (Err(reason.clone()), Err(reason.clone()), Err(reason)),
    };
    // In the order in which they are put on: the last one denies what the others need.
    let layers = [
        (Layer::Descriptors, inherited),
        (Layer::Network, network),
        (Layer::User, user),
        (Layer::Landlock, landlock),
        (Layer::NoNewPrivileges, privileges::no_new()),
        (Layer::Limits, limits.set()),
        (Layer::Seccomp, system_calls::allow_few()),
    ];
    let mut confinement = Confinement::default();
    for (layer, result) in layers {
        match result {
            Ok(()) => confinement.on.push(layer),
            Err(reason) => confinement.lacking.push((layer, reason)),
        }
    }
    confinement
}

/// Whether this is the process's only thread.
fn alone() -> Result<(), String> {
    match entries("/proc/self/task")?.len() {
        1 => Ok(()),
        threads => Err(format!("{threads} threads run already")),
    }
}

/// Whether standard input, output and error are all that is open.
pub fn nothing_inherited() -> Result<(), String> {
    let mut open = entries("/proc/self/fd")?;
    // One that is open no more was the directory's own.
    open.retain(|name| {
        !matches!(name.as_str(), "0" | "1" | "2") && std::fs::read_link(format!("/proc/self/fd/{name}")).is_ok()
    });
    if open.is_empty() { Ok(()) } else { Err(format!("open: {}", open.join(", "))) }
}

fn entries(directory: &str) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{directory}: {error}"))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
