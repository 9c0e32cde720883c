//! The codewords of AAC-LC (ISO/IEC 14496-3 4.A.1) and its scale factor bands (4.5.4), as far as it takes to pass over
//! them.
//!
//! In each of the standard's codebooks the codewords of a length are consecutive numbers, and longer ones are greater when
//! aligned to the left: how many there are of each length says all of their form.

/// A codebook.
pub(super) struct Book {
    /// How many codewords have 1, 2, 3 … bits.
    pub lengths: &'static [u8],
    /// For each codeword in numeric order, what follows it: this many signs; of codebook 11 also a sign and an escape
    /// (`a`), two signs and an escape (`b`), two signs and two escapes (`c`). Empty where nothing follows any.
    pub behind: &'static [u8],
}

/// Table 4.A.1.
pub(super) const SCALE_FACTORS: Book =
    Book { lengths: &[1, 0, 1, 3, 2, 4, 3, 5, 4, 6, 6, 6, 5, 8, 4, 7, 3, 7, 46], behind: b"" };

/// Tables 4.A.2 to 4.A.12.
pub(super) const SPECTRUM: [Book; 11] = [
    Book { lengths: &[1, 0, 0, 0, 8, 0, 24, 0, 24, 8, 16], behind: b"" },
    Book { lengths: &[0, 0, 1, 1, 7, 24, 15, 19, 14], behind: b"" },
    Book {
        lengths: &[1, 0, 0, 4, 2, 6, 3, 5, 15, 15, 8, 9, 3, 3, 5, 2],
        behind: b"011112222232343311223232331221224334323244332333223243344233333344442233434443233",
    },
    Book {
        lengths: &[0, 0, 0, 10, 6, 0, 9, 21, 8, 14, 11, 2],
        behind: b"433331202222121144443333333333332222222222221111444444333333333433344422222243333",
    },
    Book { lengths: &[1, 0, 0, 4, 4, 0, 4, 12, 12, 12, 18, 10, 4], behind: b"" },
    Book { lengths: &[0, 0, 0, 9, 0, 16, 13, 8, 23, 8, 4], behind: b"" },
    Book {
        lengths: &[1, 0, 2, 1, 0, 4, 5, 10, 14, 15, 8, 4],
        behind: b"0112221122211222222221122212122222222211222222222222112222222222",
    },
    Book {
        lengths: &[0, 0, 1, 5, 7, 10, 14, 15, 8, 4],
        behind: b"2212120112222222221122222222221212222222121222222222221212222112",
    },
    Book {
        lengths: &[1, 0, 2, 1, 0, 4, 3, 8, 11, 20, 31, 38, 32, 14, 4],
        behind: b"011222112221122222222112222222121222222221222222221222122221222211222222222222212221222222222222\
            2222222212212222222122222222222222212212222122222222222222222222222222222",
    },
    Book {
        lengths: &[0, 0, 0, 3, 8, 14, 17, 25, 31, 41, 22, 8],
        behind: b"222211222221122220221122222222222212122222222222212122222222222222222212222212222222222222222212\
            1222222212222221222222222222222221212122222222222222212122212221222222122",
    },
    Book {
        lengths: &[0, 0, 0, 2, 6, 7, 16, 59, 55, 95, 43, 6],
        behind: b"02c11222222121222222211222222222222222bbbbb2b121b2bbbb22222bb22bbb22b2bbb2b22bb2221bb222212bb22b\
            2b2222222b221222222122222222222222122222222222a222222a212222222222222222222222222222221222222222\
            222222222122222222222222222222222222211222222222222222222222222221221212221222221122221221211211\
            2",
    },
];

/// How many bands of which width there are, lowest first, at a rate that SBR may double: of long windows, of short ones.
type Bands = &'static [(u8, u8)];

const LONG_24: Bands = &[
    (11, 4),
    (10, 8),
    (4, 12),
    (3, 16),
    (2, 20),
    (2, 24),
    (2, 28),
    (1, 32),
    (2, 36),
    (1, 40),
    (1, 44),
    (1, 48),
    (2, 52),
    (5, 64),
];
const SHORT_24: Bands = &[(7, 4), (3, 8), (2, 12), (2, 16), (1, 20)];
const LONG_16: Bands = &[
    (11, 8),
    (9, 12),
    (4, 16),
    (3, 20),
    (2, 24),
    (2, 28),
    (1, 32),
    (1, 36),
    (2, 40),
    (1, 44),
    (1, 48),
    (1, 52),
    (1, 56),
    (1, 60),
    (3, 64),
];
const SHORT_16: Bands = &[(8, 4), (2, 8), (2, 12), (1, 16), (2, 20)];
const LONG_8: Bands = &[
    (13, 12),
    (7, 16),
    (4, 20),
    (3, 24),
    (2, 28),
    (1, 32),
    (2, 36),
    (1, 40),
    (1, 44),
    (1, 48),
    (1, 52),
    (1, 56),
    (1, 60),
    (1, 64),
    (1, 80),
];
const SHORT_8: Bands = &[(7, 4), (4, 8), (1, 12), (1, 16), (2, 20)];

/// The bands of long or short windows (tables 4.129 to 4.147); None at a rate that SBR does not double.
pub(super) fn bands(rate: u32, short: bool) -> Option<Bands> {
    let (long, shorter) = match rate {
        22_050 | 24_000 => (LONG_24, SHORT_24),
        11_025 | 12_000 | 16_000 => (LONG_16, SHORT_16),
        7_350 | 8_000 => (LONG_8, SHORT_8),
        _ => return None,
    };
    Some(if short { shorter } else { long })
}
