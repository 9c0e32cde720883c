//! Whole jobs, on media made by ffmpeg as the tests run and read back by ffmpeg.

mod audio;
mod support;
mod video;
