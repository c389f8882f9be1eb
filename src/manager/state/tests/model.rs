//! Random faults against a model of what disks hold: no epoch may let a server answer for a key whose acknowledged
//! writes it does not hold. `KUMO_TEST_ROUNDS` says how many histories are tried.

use super::*;

/// Ring positions that stand for all keys.
const KEYS: usize = 10;

/// A generator of chance that a seed replays (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

struct Model {
    world: World,
    dice: Dice,
    servers: u8,
    /// The last acknowledged write of each key.
    acknowledged: [u64; KEYS],
    /// What each disk holds of each key.
    held: BTreeMap<u8, [u64; KEYS]>,
    running: BTreeMap<u8, u64>,
    clock: u64,
    /// Of the epoch with this number.
    route: (u64, Rc<Route>),
}

fn position(key: usize) -> u64 {
    (key as u64) * (u64::MAX / KEYS as u64)
}

impl Model {
    fn new(seed: u64, servers: u8) -> Model {
        let world = World::attached(servers);
        let epoch = world.epoch();
        let running = (1..=servers).map(|n| (n, epoch.server(server(n)).unwrap().incarnation)).collect();
        Model {
            world,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            servers,
            acknowledged: [0; KEYS],
            held: BTreeMap::new(),
            running,
            clock: 0,
            route: (0, Rc::default()),
        }
    }

    fn number_of(address: Address) -> u8 {
        (1..100).find(|n| server(*n) == address).unwrap()
    }

    fn route(&mut self) -> (Epoch, Rc<Route>) {
        let epoch = self.world.epoch();
        if self.route.0 != epoch.number {
            self.route = (epoch.number, Rc::new(Route::new(&epoch)));
        }
        (epoch, self.route.1.clone())
    }

    /// A write is acknowledged when all members of the group, in the incarnations that the epoch names, have it.
    fn write(&mut self) {
        let (epoch, route) = self.route();
        for key in 0..KEYS {
            let group = route.group(position(key));
            let members: Vec<_> = group.members().iter().map(|m| &epoch.servers[usize::from(*m)]).collect();
            let all_run = members.iter().all(|m| self.running.get(&Self::number_of(m.address)) == Some(&m.incarnation));
            // Not every key, so that a filling server lacks something until it is filled.
            if group.coordinator().is_some() && all_run && self.dice.below(4) == 0 {
                self.clock += 1;
                self.acknowledged[key] = self.clock;
                for member in members {
                    self.held.entry(Self::number_of(member.address)).or_default()[key] = self.clock;
                }
            }
        }
    }

    fn check(&mut self, seed: u64) {
        let (epoch, route) = self.route();
        for key in 0..KEYS {
            for full in route.group(position(key)).full() {
                let number = Self::number_of(epoch.servers[usize::from(*full)].address);
                let held = self.held.get(&number).copied().unwrap_or_default()[key];
                assert_eq!(
                    held,
                    self.acknowledged[key],
                    "seed {seed}: server {number} answers for key {key} in epoch {} ({})",
                    epoch.number,
                    self.world.shape()
                );
            }
        }
    }

    fn start(&mut self, n: u8) {
        if !self.running.contains_key(&n) {
            let incarnation = 1_000_000 + self.world.fresh();
            self.running.insert(n, incarnation);
            self.world.connect(n, incarnation);
        }
    }

    fn kill(&mut self, servers: &[u8]) {
        let running: Vec<u8> = servers.iter().copied().filter(|n| self.running.remove(n).is_some()).collect();
        let connected: Vec<u8> = running.into_iter().filter(|n| self.world.conns.contains_key(n)).collect();
        self.world.silent.retain(|n| !servers.contains(n));
        self.world.kill_all(&connected);
    }

    /// Filling servers get what full ones hold, and then report.
    fn copy(&mut self) {
        let (epoch, route) = self.route();
        let Phase::Copying { .. } = epoch.phase else { return };
        for key in 0..KEYS {
            let group = route.group(position(key));
            let Some(source) = group.coordinator() else { continue };
            let from = Self::number_of(epoch.servers[usize::from(source)].address);
            let value = self.held.get(&from).copied().unwrap_or_default()[key];
            for filling in group.filling() {
                let to = Self::number_of(epoch.servers[usize::from(*filling)].address);
                self.held.entry(to).or_default()[key] = value;
            }
        }
        self.world.copy();
    }

    fn step(&mut self) {
        let n = 1 + self.dice.below(u64::from(self.servers)) as u8;
        let served = self.route().1.groups().iter().all(|g| g.coordinator().is_some());
        match self.dice.below(16) {
            0..=2 => self.kill(&[n]),
            3 => {
                let other = 1 + self.dice.below(u64::from(self.servers)) as u8;
                self.kill(&[n, other]);
            }
            4 if self.dice.below(4) == 0 => self.kill(&(1..=self.servers).collect::<Vec<_>>()),
            5..=8 => self.start(n),
            9 if served => {
                self.world.state.attach(self.world.now(), true).unwrap();
                self.world.act();
            }
            10 if served => {
                self.world.state.replace(self.world.now(), false).unwrap();
                self.world.act();
            }
            11 | 12 => self.copy(),
            13 => {
                // A power cut, or a manager alone that restarts.
                if self.dice.below(2) == 0 {
                    self.kill(&(1..=self.servers).collect::<Vec<_>>());
                }
                self.world.restart_manager(true);
                for (n, incarnation) in self.running.clone() {
                    self.world.connect(n, incarnation);
                }
            }
            _ => {}
        }
        self.write();
        let pause = [25, 75, 200, 5000][self.dice.below(4) as usize];
        self.world.wait(pause);
        self.write();
    }
}

#[test]
fn nobody_answers_for_writes_that_it_does_not_hold() {
    let rounds = std::env::var("KUMO_TEST_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20);
    for seed in 1..=rounds {
        let mut model = Model::new(seed, if seed % 3 == 0 { 5 } else { 3 });
        for _ in 0..40 {
            model.step();
            model.check(seed);
        }
        // What is whole comes back without an operator: everybody starts, and all ranges that can be are served.
        for n in 1..=model.servers {
            model.start(n);
        }
        model.world.wait(12_000);
        model.check(seed);
        let claims = model.world.state.ranges.claims(&model.world.epoch());
        assert!(claims.good.is_empty(), "seed {seed}: {claims:?} are not taken back: {}", model.world.shape());
    }
}
