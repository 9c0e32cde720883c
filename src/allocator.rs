//! The allocator of the whole program: mimalloc. glibc's keeps most of what thousands of slow clients once took
//! (docs/performance.md, "Clients").

use std::ffi::{c_int, c_long};

pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_arena_purge_mult` of mimalloc 2, in the enumeration of its options: how many of its delays (10 ms) pass until
/// free pages go back to the system.
const ARENA_PURGE_MULT: (c_int, c_long) = (24, 1);
/// `mi_option_generic_collect`: how many of its slower allocations a thread makes until it looks for what it may give back.
const GENERIC_COLLECT: (c_int, c_long) = (36, 1000);

/// From here on free pages go back to the system soon: for a process that gets as large as its clients make it. To be
/// called before the first thread is started.
#[allow(unsafe_code)]
pub fn give_back_soon() {
    for (option, value) in [ARENA_PURGE_MULT, GENERIC_COLLECT] {
        // SAFETY: `mi_option_set` writes an integer into a table, whose other users would be threads: there are none yet.
        // It takes any number for an option, and leaves those alone that it does not know.
        unsafe { libmimalloc_sys::mi_option_set(option, value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn the_options_have_their_numbers() {
        for (option, usual) in [(ARENA_PURGE_MULT.0, 10), (GENERIC_COLLECT.0, 10_000)] {
            // SAFETY: reads an integer of a table; any number is taken for an option.
            assert_eq!(unsafe { libmimalloc_sys::mi_option_get(option) }, usual, "what it is if not set");
        }
    }
}
