//! Options of whoever serves memcached clients: of a gateway, and of a server with one in its process.

use super::super::cache_spec::CacheSpec;
use super::super::values::{ListenOn, Mode};
use super::UNIX_MODE;
use clap::Args;

/// How memcached clients are served.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options for memcached clients")]
pub struct Serving {
    /// serve memcached clients here; a bare port means this host only [default: none, of a gateway 11211 unless -b is given]
    #[arg(long, value_name = "[ADDR:]PORT|unix:PATH")]
    pub memproto_text: Vec<ListenOn>,
    /// serve memcached clients here, too; every port understands all protocols, and both options may be repeated
    #[arg(long, value_name = "[ADDR:]PORT|unix:PATH")]
    pub memproto_binary: Vec<ListenOn>,
    /// who may connect to sockets of the file system, as for chmod
    #[arg(long, value_name = "MODE", default_value_t = UNIX_MODE)]
    pub unix_mode: Mode,
    /// keep values that are asked for again and again, in memory of this size, and ask only whether they have changed
    #[arg(long, value_name = "SIZE[#minsiz=SIZE]")]
    pub local_cache: Option<CacheSpec>,
    /// store flags in kumofs's own layout, for clusters shared with it
    #[arg(long)]
    pub memproto_save_flag: bool,
    /// store expiry in kumofs's own layout, for clusters shared with it
    #[arg(long)]
    pub memproto_save_expire: bool,
    /// answer a set before its replicas are written
    #[arg(long)]
    pub async_replicate_set: bool,
    /// answer a delete before its replicas are written
    #[arg(long)]
    pub async_replicate_delete: bool,
}

/// kumofs's spellings of them.
pub(super) const SHORTS: &[(&str, &str)] = &[
    ("t", "memproto-text"),
    ("b", "memproto-binary"),
    ("lc", "local-cache"),
    ("F", "memproto-save-flag"),
    ("E", "memproto-save-expire"),
    ("As", "async-replicate-set"),
    ("Ad", "async-replicate-delete"),
];

impl Serving {
    /// Where clients are served, without repetitions.
    pub fn listeners(&self) -> Vec<ListenOn> {
        listeners(&self.memproto_text, &self.memproto_binary)
    }

    /// The first option that is given and is of use only where clients are served.
    pub(super) fn of_use_with_clients(&self) -> Option<&'static str> {
        let given = [
            (self.local_cache.is_some(), "--local-cache (-lc)"),
            (self.memproto_save_flag, "--memproto-save-flag (-F)"),
            (self.memproto_save_expire, "--memproto-save-expire (-E)"),
            (self.async_replicate_set, "--async-replicate-set (-As)"),
            (self.async_replicate_delete, "--async-replicate-delete (-Ad)"),
        ];
        given.into_iter().find_map(|(is_given, name)| is_given.then_some(name))
    }

    /// What was accepted without meaning anything here.
    pub(super) fn warning(&self) -> Option<String> {
        self.local_cache.as_ref().and_then(CacheSpec::warning)
    }
}

/// Where `-t` and `-b` have clients served, without repetitions.
pub(super) fn listeners(text: &[ListenOn], binary: &[ListenOn]) -> Vec<ListenOn> {
    let mut on: Vec<ListenOn> = Vec::new();
    for place in text.iter().chain(binary) {
        if !on.contains(place) {
            on.push(place.clone());
        }
    }
    on
}
