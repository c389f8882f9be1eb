//! The scripts of `bench/`, with loads that take moments: each runs to its end, and writes what it is to write.

use crate::common::process::{Process, Said, run_command};
use crate::common::{Turn, eventually, program, say, temp_dir};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// For one script.
const LONG: Duration = Duration::from_secs(240);

/// A directory for whatever scripts leave, and the programs that they measure.
struct Bench {
    dir: TempDir,
    bins: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let bins = program("kumofs").parent().expect("programs are in a directory").to_owned();
        Bench { dir: temp_dir(), bins }
    }

    /// The place of a file that a script is to write.
    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    /// `NAME=DIRECTORY`, as most scripts want it.
    fn build(&self) -> String {
        format!("kumofs={}", self.bins.display())
    }

    /// Where scripts make their own directories.
    fn scratch(&self) -> PathBuf {
        let scratch = self.dir.path().join("scratch");
        std::fs::create_dir_all(&scratch).expect("a directory can be made");
        scratch.canonicalize().expect("it is there")
    }

    fn script(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("bench").join(name)
    }

    /// Runs a script with the words of `load` and with `more`; it is to succeed and to leave nothing behind.
    #[track_caller]
    fn run(&self, name: &str, load: &str, more: &[&str]) -> Said {
        let scratch = self.scratch();
        let mut command = Command::new(Bench::script(name));
        command.args(load.split_whitespace()).args(more).current_dir(&scratch);
        command.env("TMPDIR", &scratch).env("PYTHONDONTWRITEBYTECODE", "1");
        let said = run_command(name, command, LONG);
        assert_eq!(said.code, Some(0), "{name} {load} {more:?}: {said:?}");
        assert_eq!(living_in(&scratch), Vec::<String>::new(), "{name} left processes behind");
        assert_eq!(scratch.read_dir().expect("it is there").count(), 0, "{name} left files behind");
        said
    }

    #[track_caller]
    fn read(&self, file: &str) -> Value {
        let text = std::fs::read_to_string(self.file(file)).expect("the script wrote it");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}: {text}"))
    }

    /// Has a picture made of `json`, and checks that it shows each workload, each system, and each figure asked for.
    #[track_caller]
    fn plot(&self, json: &str, figures: &[&str]) {
        let (json_file, picture) = (self.file(json), self.file("picture.svg"));
        self.run("plot", "", &[&[json_file.as_str(), &picture], figures].concat());
        let svg = std::fs::read_to_string(&picture).expect("the script wrote it");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        let told = self.read(json);
        for (workload, systems) in entries(&told["results"]) {
            let names = entries(systems).map(|(system, _)| system);
            for name in names.chain([workload]).chain(figures.iter().copied()) {
                assert!(svg.contains(&format!(">{name}</text>")), "{name} is not in {svg}");
            }
        }
    }
}

/// The command lines of processes that work in `dir` or below.
fn living_in(dir: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("Linux has it").filter_map(Result::ok);
    let inside = processes.filter(|p| std::fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)));
    inside.map(|p| std::fs::read_to_string(p.path().join("cmdline")).unwrap_or_default().replace('\0', " ")).collect()
}

#[track_caller]
fn entries(of: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let object = of.as_object().unwrap_or_else(|| panic!("no object: {of}"));
    object.iter().map(|(name, value)| (name.as_str(), value))
}

#[track_caller]
fn names(of: &Value) -> Vec<&str> {
    entries(of).map(|(name, _)| name).collect()
}

/// Checks that there are `count` rounds of each workload and system, and that each has `figures` above zero.
#[track_caller]
fn check_rounds(told: &Value, count: usize, figures: &[&str]) {
    for (workload, systems) in entries(&told["results"]) {
        for (system, rounds) in entries(systems) {
            let rounds = rounds.as_array().unwrap_or_else(|| panic!("no rounds: {rounds}"));
            assert_eq!(rounds.len(), count, "{workload}, {system}");
            for round in rounds {
                let positive = |figure: &&str| round[*figure].as_f64().is_some_and(|f| f > 0.0);
                assert!(figures.iter().all(positive), "{workload}, {system}: {round}");
                assert!(round.get("errors").is_none_or(|errors| errors == 0.0), "{workload}, {system}: {round}");
            }
        }
    }
}

#[test]
fn compare_measures_all_shapes_with_all_workloads() {
    let _turn = Turn::shared();
    let bench = Bench::new();
    let (build, file) = (bench.build(), bench.file("all.json"));
    let load = "--rounds 1 --duration 0.05 --keys 100 --shape cluster --shape one --cached 1m --others";
    let said = bench.run("compare", load, &["--build", &build, "--json", &file]);
    let told = bench.read("all.json");
    check_rounds(&told, 1, &["latency_p50_us"]);
    let workloads = names(&told["results"]);
    assert!(workloads.len() >= 7 && workloads.contains(&"set x16"), "{workloads:?}");
    for workload in workloads {
        let systems = names(&told["results"][workload]);
        for system in ["kumofs", "kumofs, 1 process", "kumofs -lc"] {
            assert!(systems.contains(&system), "{workload}: {systems:?}");
        }
        let others = systems.iter().filter(|name| ["twemproxy", "memcached"].contains(name)).count();
        assert_eq!(others + said.stderr.matches("SKIPPED").count(), 2, "{systems:?}, {}", said.stderr);
        assert!(said.stdout.contains(workload), "{}", said.stdout);
    }
    bench.plot("all.json", &["latency_p50_us"]);

    let (again, own, file) =
        (format!("again={}", bench.bins.display()), "--op mix --connections 3", bench.file("own.json"));
    let more = ["--build", &build, "--build", &again, "--workload", own, "--json", &file];
    bench.run("compare", "--rounds 2 --duration 0.05 --keys 100", &more);
    let told = bench.read("own.json");
    check_rounds(&told, 2, &["latency_p50_us"]);
    assert_eq!(names(&told["results"][own]), ["again", "kumofs"]);

    let sizes = "--rounds 1 --duration 0.05 --keys 100 --cached 1m --value-size 10 --value-size 20000";
    bench.run("compare", sizes, &["--build", &build, "--workload", "a few=--op get --connections 3", "--json", &file]);
    let told = bench.read("own.json");
    assert_eq!(names(&told["results"]), ["a few, 10 bytes", "a few, 20,000 bytes"]);
    bench.plot("own.json", &["latency_p50_us"]);
}

#[test]
fn scale_makes_every_experiment() {
    let _turn = Turn::shared();
    let bench = Bench::new();
    let mut experiments =
        vec!["connections", "idle", "records", "servers", "skew", "stand_ins", "start", "threads", "values"];
    let mut load = "--rounds 2 --duration 0.05 --keys 20 --records 100 --connections 2,4 --servers 2,3 --stand-ins 3 \
                    --idle 10 --start-records 200"
        .to_owned();
    // Without a name it makes all that there are: one that is new is made here, too.
    if !bench.bins.join("examples/stand-in-servers").exists() {
        say("bench/scale: no stand_ins, because examples were not built");
        experiments.retain(|name| *name != "stand_ins");
        load = format!("{} {load}", experiments.join(" "));
    }
    let (bins, dir) = (bench.bins.to_string_lossy(), bench.file("scale"));
    let said = bench.run("scale", &load, &["--build", &bins, "--json", &dir]);
    let mut written: Vec<_> = Path::new(&dir)
        .read_dir()
        .expect("the script made it")
        .map(|file| file.expect("it is there").file_name().into_string().expect("a name"))
        .collect();
    written.sort();
    assert_eq!(written, experiments.iter().map(|name| format!("{name}.json")).collect::<Vec<_>>());
    for name in experiments {
        let file = format!("scale/{name}.json");
        let told = bench.read(&file);
        assert!(said.stdout.contains(&format!("\n{name}: ")), "{}", said.stdout);
        match name {
            "idle" => assert!(told["results"]["10 connections"]["gateway"][0]["bytes_per_connection"].is_number()),
            "start" => {
                check_rounds(&told, 1, &["start_s", "serves_s"]);
                bench.plot(&file, &["serves_s"]);
            }
            _ => {
                check_rounds(&told, 2, &["latency_p50_us"]);
                bench.plot(&file, &["latency_p50_us"]);
            }
        }
    }
}

#[test]
fn large_measures_small_commands_beside_large_ones() {
    let _turn = Turn::shared();
    let bench = Bench::new();
    let (load, build, file) =
        ("--mib 2 --rate 200 --connections 4 --duration 0.1 --pause 0.01", bench.build(), bench.file("large.json"));
    let one = bench.run("large", load, &["--build", &build, "--json", &file]).stdout;
    let cluster =
        bench.run("large", load, &["--build", &build, "--shape", "cluster", "--op", "set", "--small", "get"]).stdout;
    let attach = bench.run("large", load, &["--build", &build, "--shape", "cluster", "--op", "attach"]).stdout;
    let lines: Vec<&str> = one.lines().chain(cluster.lines()).chain(attach.lines()).collect();
    assert_eq!(lines.len(), 6 + 1 + 2, "{lines:?}");
    for line in lines {
        assert!(line.contains("[ms] p50 ") && !line.contains("nan") && line.contains(" 0 failed"), "{line}");
    }
    let told = bench.read("large.json");
    check_rounds(&told, 1, &["p50_ms", "p99_ms", "max_ms"]);
    assert_eq!(names(&told["results"]).len(), 6);
    let beside = &told["results"]["small gets beside sets of 2 MiB"]["kumofs, 1 process"][0];
    assert!(beside["large_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{told}");
    bench.plot("large.json", &["p50_ms", "large_ms"]);
}

#[test]
fn replace_takes_every_step() {
    let _turn = Turn::shared();
    let bench = Bench::new();
    let load = "--keys 500 --connections 4 --length 0.25 --quiet 2 --meanwhile 3 --away 1";
    let said = bench.run("replace", load, &["--build", &bench.build(), "--json", &bench.file("replace.json")]);
    for step in ["attach", "detach", "full-replace", "backup", "compaction", "return"] {
        assert!(said.stdout.contains(&format!("kumofs {step}")), "{}", said.stdout);
    }
    // Other steps of so few records may be over before there is a second to compare.
    let results = &bench.read("replace.json")["results"];
    for figure in ["p99_9_ms", "max_ms"] {
        for system in ["kumofs", "kumofs, quiet"] {
            let value = &results["backup"][system][0][figure];
            assert!(value.as_f64().is_some_and(|ms| ms > 0.0), "{system}, {figure}: {results}");
        }
    }
    assert!(results["return, 500 records"]["kumofs"][0]["records_moved"].is_u64(), "{results}");
    bench.plot("replace.json", &["lasted_s", "p99_9_ms"]);
}

#[test]
fn restore_finds_every_record_again() {
    let _turn = Turn::shared();
    let bench = Bench::new();
    let (bins, file) = (bench.bins.to_string_lossy(), bench.file("restore.json"));
    let said = bench.run("restore", "--records 2000 --rounds 2", &["--programs", &bins, "--json", &file]);
    assert!(said.stdout.ends_with("2000 records are as they were, on 3 servers\n"), "{}", said.stdout);
    let told = bench.read("restore.json");
    check_rounds(&told, 2, &["took_s"]);
    assert_eq!(names(&told["results"]), ["backup", "export", "import", "merge", "restore", "start"]);
    let said = bench.run("restore", "--records 100 --value-size 20 --merge-only", &["--programs", &bins]);
    assert!(said.stdout.contains("kumomergedb had "), "{}", said.stdout);
    bench.plot("restore.json", &["took_s"]);
}

#[test]
fn what_a_script_has_started_ends_with_it_however_it_ends() {
    let _turn = Turn::shared();
    let bench = Bench::new();
    let scratch = bench.scratch();
    let set = [format!("TMPDIR={}", scratch.display()), "PYTHONDONTWRITEBYTECODE=1".to_owned()];
    let script = Bench::script("compare").to_string_lossy().into_owned();
    let options = ["--build", &bench.build(), "--duration", "600"].map(str::to_owned);
    let args = [&set[..], &[script], &options].concat();
    let mut script = Process::start("compare", Path::new("env"), &args, &scratch);
    let loads = || living_in(&scratch).iter().any(|line| line.contains("kumobench"));
    eventually("kumobench loads the cluster", || loads().then_some(()));
    assert!(living_in(&scratch).iter().any(|line| line.contains("kumo-gateway")));
    script.kill();
    eventually("all have ended", || living_in(&scratch).is_empty().then_some(()));
}
