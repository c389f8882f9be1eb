//! What the command line tools do. Rendering is pure; each tool's `main` is all that its binary calls.

pub mod ctl;
pub mod ruby_time;
