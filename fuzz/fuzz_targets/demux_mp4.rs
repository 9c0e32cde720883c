#![no_main]

use libfuzzer_sys::fuzz_target;
use segmill::media::demux::Container;

fuzz_target!(|data: &[u8]| segmill_fuzz::check_demuxer(Container::Mp4, data));
