//! Random numbers, from the system.

use std::io;

/// A random number.
///
/// # Errors
/// When the system has none.
pub fn random_u64() -> io::Result<u64> {
    #[cfg(not(feature = "sim"))]
    return getrandom::u64().map_err(io::Error::other);
    #[cfg(feature = "sim")]
    return Ok(crate::sim::node::random_u64());
}
