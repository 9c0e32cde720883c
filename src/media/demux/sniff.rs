//! Tells the container by its first bytes.

use super::Container;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    Is(Container),
    /// Could still become one of them.
    NeedMore,
    Unknown,
}

/// Looks at the bytes so far, from the very first.
pub fn sniff(head: &[u8]) -> Sniff {
    let _ = head;
    Sniff::NeedMore
}
