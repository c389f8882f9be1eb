//! What is counted: callgrind collects while one function runs, and dumps when it is left.

use std::hint::black_box;
use std::sync::OnceLock;

/// The name by which callgrind knows the function.
pub const FUNCTION: &str = concat!(module_path!(), "::counted_region");

static ONLY: OnceLock<String> = OnceLock::new();

/// From now on, nothing but what has this name is counted.
pub fn count_only(name: String) {
    // It is said once.
    let _ = ONLY.set(name);
}

/// Runs what is to be counted, and says of how many operations it was.
pub fn count(name: &str, operations: u64, mut run: impl FnMut()) {
    if ONLY.get().is_some_and(|only| only != name) {
        return run();
    }
    counted_region(&mut run);
    println!("{name}\t{operations}");
}

/// Never inlined, and with something to do behind the call, so that it is seen to begin and to end; what it runs has
/// another name.
#[inline(never)]
fn counted_region(run: &mut dyn FnMut()) -> bool {
    run();
    black_box(true)
}
