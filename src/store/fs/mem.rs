//! A disk in memory that fails on demand, for tests and simulations.
//!
//! It knows what is durable: file contents after [`File::sync`], names after [`Disk::sync_dir`]. Each call on it is a
//! step; [`Faults`] say at which step what goes wrong. After a kill the old handles answer errors only, and
//! [`MemDisk::after_kill`] or [`MemDisk::after_power_loss`] give the disk as the next process finds it. Everything
//! random follows from a seed.

use super::{Disk, File, Listed, Lock, Space, View};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What goes wrong, and when. Steps count from 1 over all calls that can fail.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    /// At this step the process dies: a write is done in part, everything else not at all.
    pub kill_at: Option<u64>,
    /// These steps fail with an I/O error.
    pub fail_at: BTreeSet<u64>,
    /// From now on, every write fails with an I/O error.
    pub fail_writes: bool,
    /// The same for every sync, of files and of directories; what it should have kept stays as it was.
    pub fail_syncs: bool,
    /// Writes may write less than asked for.
    pub short_writes: bool,
    /// Bytes that fit on the disk.
    pub capacity: Option<u64>,
    /// Hard links are refused, as across devices.
    pub no_links: bool,
    /// Reads of these bytes, by the path that the file was opened with, fail with an I/O error.
    pub unreadable: Vec<(PathBuf, std::ops::Range<u64>)>,
}

#[derive(Clone, Default)]
struct Inode {
    data: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
}

/// A change of names that a loss of power may undo.
#[derive(Clone)]
enum NameChange {
    Set(PathBuf, u64),
    Unset(PathBuf),
    Move(PathBuf, PathBuf),
}

#[derive(Clone, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    faults: Faults,
    steps: u64,
    dead: bool,
    random: u64,
    next_inode: u64,
}

/// The disk. Clones are handles of the same one.
#[derive(Clone)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

struct MemFile {
    state: Arc<Mutex<State>>,
    inode: u64,
    path: PathBuf,
}

struct MemLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder of the simulated disk panics")
}

impl Lock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        locked(&self.state).locks.remove(&self.path);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    match change {
        NameChange::Set(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameChange::Unset(path) => {
            names.remove(path);
        }
        NameChange::Move(from, to) => {
            let moved: Vec<PathBuf> = names.keys().filter(|n| n.starts_with(from)).cloned().collect();
            for old in moved {
                let inode = names.remove(&old).expect("the key was just listed");
                let rest = old.strip_prefix(from).expect("it starts with `from`");
                let new = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                names.insert(new, inode);
            }
        }
    }
}

impl NameChange {
    fn concerns(&self, dir: &Path) -> bool {
        match self {
            NameChange::Set(path, _) | NameChange::Unset(path) => path.parent() == Some(dir),
            NameChange::Move(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

impl State {
    fn chance(&mut self) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Counts a step. `Ok(true)`: the process dies in the middle of this one.
    fn step(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(io::Error::other("the process was killed"));
        }
        self.steps += 1;
        if self.faults.kill_at.is_some_and(|at| self.steps >= at) {
            self.dead = true;
            return Ok(true);
        }
        if self.faults.fail_at.contains(&self.steps) {
            return Err(io::Error::other("injected failure"));
        }
        Ok(false)
    }

    fn whole_step(&mut self) -> io::Result<()> {
        if self.step()? { Err(io::Error::other("the process was killed")) } else { Ok(()) }
    }

    fn whole_sync(&mut self) -> io::Result<()> {
        self.whole_step()?;
        if self.faults.fail_syncs { Err(io::Error::other("injected failure of a sync")) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        let alive: BTreeSet<u64> = self.names.values().copied().collect();
        alive.iter().filter_map(|i| self.inodes.get(i)).map(|i| i.data.len() as u64).sum()
    }

    fn rename(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.unsynced_names.push(change);
    }

    fn restarted(mut self) -> MemDisk {
        (self.dead, self.steps, self.faults) = (false, 0, Faults::default());
        self.locks.clear();
        MemDisk { state: Arc::new(Mutex::new(self)) }
    }
}

impl MemDisk {
    /// An empty disk; what is random about it follows from `seed`.
    pub fn new(seed: u64) -> MemDisk {
        MemDisk { state: Arc::new(Mutex::new(State { random: seed, ..State::default() })) }
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        locked(&self.state).faults = faults;
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        locked(&self.state).steps
    }

    /// The disk as the next process finds it: all that was written is there.
    pub fn after_kill(&self) -> MemDisk {
        locked(&self.state).clone().restarted()
    }

    /// The disk as found after a loss of power: of what was not synced, any part may be missing, in any order.
    pub fn after_power_loss(&self, seed: u64) -> MemDisk {
        let mut state = locked(&self.state).clone();
        state.random ^= seed;
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.unsynced_names) {
            if state.chance().is_multiple_of(2) {
                apply(&mut names, &change);
            }
        }
        let numbers: Vec<u64> = state.inodes.keys().copied().collect();
        for number in numbers {
            let inode = state.inodes.remove(&number).unwrap_or_default();
            let mut data = inode.durable;
            for (at, bytes) in inode.unsynced {
                let kept = match state.chance() % 4 {
                    0 => 0,
                    1 => state.chance() as usize % (bytes.len() + 1),
                    _ => bytes.len(),
                };
                put_bytes(&mut data, at, &bytes[..kept]);
            }
            state.inodes.insert(number, Inode { durable: data.clone(), data, unsynced: Vec::new() });
        }
        (state.names, state.durable_names) = (names.clone(), names);
        state.restarted()
    }

    /// Whether it is out of room.
    pub fn is_full(&self) -> bool {
        let state = locked(&self.state);
        state.faults.capacity.is_some_and(|capacity| state.used() >= capacity)
    }

    /// Every file with its length.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = locked(&self.state);
        state.names.iter().map(|(path, inode)| (path.clone(), state.inodes[inode].data.len() as u64)).collect()
    }

    /// Turns over one bit of a file, as a bad disk does.
    pub fn flip(&self, path: &Path, bit: u64) {
        let mut state = locked(&self.state);
        let inode = state.names[path];
        let inode = state.inodes.get_mut(&inode).expect("names point to inodes");
        inode.data[(bit / 8) as usize] ^= 1 << (bit % 8);
        inode.durable = inode.data.clone();
        inode.unsynced.clear();
    }

    /// Turns over one bit of the byte behind the last place where these bytes are, in the last file that has them; false
    /// when none does.
    pub fn damage_behind(&self, bytes: &[u8]) -> bool {
        let found = {
            let state = locked(&self.state);
            let place = |inode: &u64| memchr::memmem::rfind(&state.inodes[inode].data, bytes);
            let ends = |(path, inode): (&PathBuf, &u64)| Some((path.clone(), place(inode)? + bytes.len()));
            let is_within = |(path, end): &(PathBuf, usize)| *end < state.inodes[&state.names[path]].data.len();
            state.names.iter().filter_map(ends).rfind(is_within)
        };
        let Some((path, end)) = found else { return false };
        self.flip(&path, end as u64 * 8);
        true
    }

    fn file(&self, inode: u64, path: &Path) -> Arc<dyn File> {
        Arc::new(MemFile { state: self.state.clone(), inode, path: path.to_owned() })
    }
}

fn put_bytes(data: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    if !bytes.is_empty() && data.len() < end {
        data.resize(end, 0);
    }
    if !bytes.is_empty() {
        data[at as usize..end].copy_from_slice(bytes);
    }
}

impl Disk for MemDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        if state.names.contains_key(dir) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let listed = |path: &PathBuf, is_dir| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Listed { name, is_dir }
        };
        let files = state.names.keys().filter(|p| p.parent() == Some(dir)).map(|p| listed(p, false));
        let dirs = state.dirs.iter().filter(|p| p.parent() == Some(dir)).map(|p| listed(p, true));
        Ok(files.chain(dirs).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        if state.names.contains_key(dir) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        if state.names.keys().any(|p| p.starts_with(dir)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if state.dirs.remove(dir) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode::default());
        state.rename(NameChange::Set(path.to_owned(), inode));
        Ok(self.file(inode, path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(inode, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        if state.dirs.contains(from) {
            let moved: Vec<PathBuf> = state.dirs.iter().filter(|d| d.starts_with(from)).cloned().collect();
            for dir in moved {
                state.dirs.remove(&dir);
                let rest = dir.strip_prefix(from).expect("it starts with `from`").to_owned();
                state.dirs.insert(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) });
            }
        } else if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(NameChange::Move(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(NameChange::Unset(path.to_owned()));
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        if state.faults.no_links {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.rename(NameChange::Set(to.to_owned(), inode));
        Ok(())
    }

    fn is_same(&self, one: &Path, other: &Path) -> io::Result<bool> {
        let state = locked(&self.state);
        let inode = |path: &Path| state.names.get(path).copied().ok_or(io::Error::from(io::ErrorKind::NotFound));
        Ok(inode(one)? == inode(other)?)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        state.whole_sync()?;
        for change in std::mem::take(&mut state.unsynced_names) {
            if change.concerns(dir) {
                apply(&mut state.durable_names, &change);
            } else {
                state.unsynced_names.push(change);
            }
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        if !state.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        if !state.names.contains_key(path) {
            let inode = state.next_inode;
            state.next_inode += 1;
            state.inodes.insert(inode, Inode::default());
            state.rename(NameChange::Set(path.to_owned(), inode));
        }
        Ok(Some(Box::new(MemLock { state: self.state.clone(), path: path.to_owned() })))
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = locked(&self.state);
        let total = state.faults.capacity.unwrap_or(1 << 50);
        Ok(Space { free: total.saturating_sub(state.used()), total })
    }

    fn random(&self) -> io::Result<u64> {
        Ok(locked(&self.state).chance())
    }
}

impl File for MemFile {
    fn size(&self) -> io::Result<u64> {
        let mut state = locked(&self.state);
        state.whole_step()?;
        Ok(state.inodes[&self.inode].data.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = locked(&self.state);
        if state.dead {
            return Err(io::Error::other("the process was killed"));
        }
        let wanted = offset..offset + buf.len() as u64;
        let bad = |(path, range): &(PathBuf, std::ops::Range<u64>)| {
            *path == self.path && range.start < wanted.end && wanted.start < range.end
        };
        if state.faults.unreadable.iter().any(bad) {
            return Err(io::Error::other("unreadable sector"));
        }
        let data = &state.inodes[&self.inode].data;
        let from = (offset as usize).min(data.len());
        let len = buf.len().min(data.len() - from);
        buf[..len].copy_from_slice(&data[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = locked(&self.state);
        let dies = state.step()?;
        if state.faults.fail_writes {
            return Err(io::Error::other("injected failure of a write"));
        }
        let mut len = buf.len();
        if dies || state.faults.short_writes {
            len = state.chance() as usize % (len + 1);
        }
        if let Some(capacity) = state.faults.capacity {
            let old = state.inodes[&self.inode].data.len() as u64;
            let room = capacity.saturating_sub(state.used()) + old.saturating_sub(offset);
            len = len.min(room as usize);
            if len == 0 && !buf.is_empty() && !dies && room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        if !dies && !buf.is_empty() {
            len = len.max(1);
        }
        let inode = state.inodes.get_mut(&self.inode).expect("open files have inodes");
        put_bytes(&mut inode.data, offset, &buf[..len]);
        inode.unsynced.push((offset, buf[..len].to_vec()));
        if dies { Err(io::Error::other("the process was killed")) } else { Ok(len) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = locked(&self.state);
        state.whole_sync()?;
        let inode = state.inodes.get_mut(&self.inode).expect("open files have inodes");
        inode.durable = inode.data.clone();
        inode.unsynced.clear();
        Ok(())
    }

    fn view(&self, _capacity: u64) -> io::Result<Option<View>> {
        Ok(None)
    }
}
