use super::*;
use crate::daemon::cmdline::{Ended, parse};
use std::ffi::OsString;
use std::fmt::Debug;
use std::io::Write;

const MANAGER: &str = "-l svr1";
const SERVER: &str = "-l svr1 -m mgr1 -s data";
const GATEWAY: &str = "-m mgr1";

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn read_with<O: Options>(line: &str, environment: &[(&str, &str)]) -> Result<O, Ended> {
    let look_up = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
    parse(words(line), &look_up)
}

fn read<O: Options>(line: &str) -> Result<O, Ended> {
    read_with(line, &[])
}

fn error<O: Options + Debug>(line: &str) -> String {
    match read::<O>(line) {
        Err(Ended::Usage(line)) => line,
        other => panic!("{line}: {other:?}"),
    }
}

/// Checks that each spelling says the same as the long form, and something other than the default.
fn same<O: Options + Debug>(required: &str, pairs: &[(&str, &str)]) {
    let shown = |options: &str| format!("{:?}", read::<O>(&format!("{required} {options}")).unwrap());
    for (short, long) in pairs {
        assert_eq!(shown(short), shown(long), "{short} and {long}");
        assert_ne!(shown(short), shown(""), "{short} changes something");
    }
}

const COMMON_PAIRS: &[(&str, &str)] = &[
    ("-o x.log", "--log x.log"),
    ("-v", "--verbose"),
    ("-g x.mpac", "--binary-log x.mpac"),
    ("-d x.pid", "--daemon x.pid"),
    ("-Ci 1.5", "--clock-interval 1.5"),
    ("-Ys 3", "--connect-timeout 3"),
    ("-Yn 7", "--connect-retry-limit 7"),
    ("-TR 4", "--read-threads 4"),
    ("-TW 4", "--write-threads=4"),
];

#[test]
fn every_option_of_the_manager_has_both_spellings() {
    same::<ManagerOptions>(MANAGER, COMMON_PAIRS);
    same::<ManagerOptions>(
        MANAGER,
        &[
            ("-p svr2", "--partner svr2"),
            ("-p svr2 -p svr3:1", "--partner svr2:19700 --partner=svr3:1"),
            ("-c 19799", "--control 19799"),
            ("-a", "--auto-replace"),
            ("-Rs 0", "--replace-delay 0"),
            ("-k 2", "--keepalive-interval 2"),
        ],
    );
}

#[test]
fn a_manager_keeps_its_state_in_a_file_of_its_own_unless_told_where() {
    let at = |text: &str| crate::logic::address::Address::new(text.parse().unwrap());
    let file = |line: &str, address: &str| read::<ManagerOptions>(line).unwrap().state_file(at(address));
    assert_eq!(file("-l a", "10.0.0.1:19700"), Path::new("./kumo-manager-10.0.0.1-19700.state"));
    assert_eq!(file("-l a", "[::1]:5"), Path::new("./kumo-manager-::1-5.state"));
    assert_eq!(file("-l a --state /var/x", "10.0.0.1:19700"), Path::new("/var/x"));
}

#[test]
fn every_option_of_the_server_has_both_spellings() {
    same::<ServerOptions>(SERVER, COMMON_PAIRS);
    same::<ServerOptions>(
        SERVER,
        &[
            ("-L 19901", "--stream-listen 19901"),
            ("-p mgr2", "--manager2 mgr2"),
            ("-p mgr2 -p mgr3:1", "--manager2 mgr2:19700 --manager2=mgr3:1"),
            ("-f /tmp", "--offer-tmp /tmp"),
            ("-S 1", "--replicate-set-retry 1"),
            ("-D 2", "--replicate-delete-retry 2"),
            ("-M 3", "--replace-memory-limit 3"),
            ("-gN 10", "--garbage-min-time 10"),
            ("-gX 20", "--garbage-max-time 20"),
            ("-gS 30", "--garbage-mem-limit 30"),
            ("-t 11311", "--memproto-text 11311"),
            ("-b 11312", "--memproto-binary 11312"),
            ("-t 1 -F -E", "--memproto-text 1 --memproto-save-flag --memproto-save-expire"),
            ("-t 1 -lc 64m", "--memproto-text 1 --local-cache 64m"),
            ("-t 1 -As -Ad", "--memproto-text 1 --async-replicate-set --async-replicate-delete"),
            ("-k 2", "--keepalive-interval 2"),
        ],
    );
    assert!(read::<ServerOptions>(SERVER).unwrap().serving.listeners().is_empty(), "a server alone serves no clients");
    let said = error::<ServerOptions>(&format!("{SERVER} -As"));
    assert!(said.starts_with("--async-replicate-set (-As) is of use only with --memproto-text (-t); add -t"), "{said}");
    let said = error::<ServerOptions>(&format!("{SERVER} -lc 64m"));
    assert!(said.starts_with("--local-cache (-lc) is of use only with --memproto-text (-t); add -t"), "{said}");
    let short = read::<ServerOptions>("-l [::1]:5 -m mgr -s sled:d#xmsiz=1m").unwrap();
    let long = read::<ServerOptions>("--listen [::1]:5 --manager1 mgr:19700 --store sled:d#xmsiz=1m").unwrap();
    assert_eq!(format!("{short:?}"), format!("{long:?}"));
}

#[test]
fn every_option_of_the_gateway_has_both_spellings() {
    same::<GatewayOptions>(GATEWAY, COMMON_PAIRS);
    same::<GatewayOptions>(
        GATEWAY,
        &[
            ("-p mgr2", "--manager2 mgr2"),
            ("-p mgr2 -p mgr3:1", "--manager2 mgr2:19700 --manager2=mgr3:1"),
            ("-t 11311", "--memproto-text 11311"),
            ("-t11311", "--memproto-text=11311"),
            ("-b 0.0.0.0:11411", "--memproto-binary 0.0.0.0:11411"),
            ("-lc *#capsiz=1m", "--local-cache *#capsiz=1m"),
            ("-F", "--memproto-save-flag"),
            ("-E", "--memproto-save-expire"),
            ("-G 1", "--get-retry 1"),
            ("-S 2", "--set-retry 2"),
            ("-D 3", "--delete-retry 3"),
            ("-rn 5", "--renew-threshold 5"),
            ("-As", "--async-replicate-set"),
            ("-Ad", "--async-replicate-delete"),
            ("-k users:", "--key-prefix users:"),
        ],
    );
}

#[test]
fn every_short_spelling_stands_for_an_option_that_exists() {
    fn check<O: Options>() {
        let command = O::command();
        for (short, long) in O::SHORTS.iter().flat_map(|part| part.iter()) {
            assert!(command.get_arguments().any(|a| a.get_long() == Some(long)), "-{short}: no --{long}");
        }
        command.debug_assert();
    }
    check::<ManagerOptions>();
    check::<ServerOptions>();
    check::<GatewayOptions>();
    check::<KumofsOptions>();
}

#[test]
fn the_command_lines_of_the_tutorial_are_understood() {
    for line in ["-v -l svr1 -p svr2", "-v -l localhost"] {
        read::<ManagerOptions>(line).unwrap();
    }
    for line in [
        "-v -l svr1 -m svr1 -p svr2 -s /var/kumodb.tch",
        "-v -m localhost -l localhost:19801 -L 19901 -s ./database1.tch",
        "-v -m mgr -l svr1 -s database.tch#xmsiz=600m#rcnum=4k",
    ] {
        read::<ServerOptions>(line).unwrap();
    }
    read::<GatewayOptions>("-v -m svr1 -p svr2 -t 11211").unwrap();
}

#[test]
fn defaults_are_the_documented_ones() {
    let m = read::<ManagerOptions>(MANAGER).unwrap();
    assert_eq!((m.listen.to_string().as_str(), m.replace_delay.as_secs()), ("svr1:19700", 4));
    assert_eq!((m.common.keepalive_interval.as_millis(), m.common.clock_interval.as_secs()), (500, 2));
    assert_eq!((m.common.connect_timeout.as_secs(), m.common.connect_retry_limit), (1, 4));
    let s = read::<ServerOptions>(SERVER).unwrap();
    assert_eq!((s.listen.to_string().as_str(), s.stream_listen), ("svr1:19800", 19900));
    assert_eq!((s.replicate_set_retry, s.replicate_delete_retry, s.max_value), (20, 20, Size(1 << 20)));
    assert_eq!((s.garbage_min_time.as_secs(), s.garbage_max_time.as_secs(), s.garbage_mem_limit), (60, 3600, 2048));
    let g = read::<GatewayOptions>(GATEWAY).unwrap();
    assert_eq!((g.get_retry, g.set_retry, g.delete_retry, g.renew_threshold), (5, 20, 20, 4));
    let k = read::<KumofsOptions>("").unwrap();
    let on: Vec<String> = k.listeners().iter().map(ListenOn::to_string).collect();
    assert_eq!((on, k.data.to_str(), k.servers), (vec!["127.0.0.1:11211".to_owned()], Some("./kumofs-data"), 3));
    assert_eq!((k.unix_mode, s.serving.unix_mode, g.serving.unix_mode), (Mode(0o700), Mode(0o700), Mode(0o700)));
}

#[test]
fn the_gateway_listens_where_told_or_on_the_port_of_memcached() {
    let on = |options: &str| {
        let o = read::<GatewayOptions>(&format!("{GATEWAY} {options}")).unwrap();
        o.listeners().iter().map(ListenOn::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(on(""), "11211");
    assert_eq!(on("-t 1"), "1");
    assert_eq!(on("-b 2"), "2");
    assert_eq!(on("-t 1 -b 0.0.0.0:2"), "1 0.0.0.0:2");
    assert_eq!(on("-t 1 -b 1"), "1");
}

#[test]
fn workers_are_the_larger_number_or_half_the_cores() {
    let workers =
        |options: &str, cores| read::<GatewayOptions>(&format!("{GATEWAY} {options}")).unwrap().common.workers(cores);
    assert_eq!((workers("", 1), workers("", 2), workers("", 16)), (1, 1, 8));
    assert_eq!((workers("-TR 4", 1), workers("-TW 3", 1), workers("-TR 4 -TW 6", 1)), (4, 3, 6));
}

#[test]
fn mistakes_get_one_line_that_says_how_to_mend_them() {
    let see = "; 'kumo-server --help' lists the options";
    let cases = [
        ("", "missing --listen <ADDR[:19800]>: where other nodes reach this server [-l]"),
        ("-l svr1 -s d", "missing --manager1 <ADDR[:19700]>: a manager [-m]"),
        ("-x", "unknown option -x"),
        ("--listne svr1", "unknown option --listne; did you mean --listen (-l)"),
        ("word", "unexpected word 'word'"),
        ("-TR 0", "bad value '0' for --read-threads (-TR): expected a whole number from 1 to 1024"),
        ("-TR -1", "bad value '-1' for --read-threads (-TR): expected a whole number from 1 to 1024"),
        ("--wake-latency -1", "bad value '-1' for --wake-latency: expected a whole number from 0 to 1000000"),
        ("-Ci fast", "bad value 'fast' for --clock-interval (-Ci): expected seconds above 0, such as 2 or 0.5"),
        (
            "-L 65536",
            "bad value '65536' for --stream-listen (-L): '65536' is no port; expected a number from 0 to 65535",
        ),
        ("-l svr1:", "bad value 'svr1:' for --listen (-l): '' is no port; expected a number from 0 to 65535"),
        ("--listen=", "--listen (-l) needs a value"),
        ("--max-value 1g", "bad value '1g' for --max-value: expected a size from 1 to 128m"),
        (
            "-s rocks:d",
            "bad value 'rocks:d' for --store (-s): unknown engine 'rocks'; write log:DIR or sled:DIR, or ./rocks:d for a path with a colon",
        ),
        ("-l a -l b", "--listen (-l) is given twice; give it once"),
        ("--sync=5", "--sync takes no value"),
        ("-l svr1 -m", "-m needs a value"),
        (
            "-l svr1 -m m -p m -s d",
            "--manager1 (-m) and --manager2 (-p) are both m:19700; leave one out or name the other manager",
        ),
        ("-l svr1:5 -L 5 -m m -s d", "--stream-listen (-L) is the port of --listen (-l), 5; choose another"),
    ];
    for (typed, line) in cases {
        assert_eq!(error::<ServerOptions>(typed), format!("{line}{see}"), "{typed}");
    }
    let line = error::<ManagerOptions>("-l svr1 -p svr1");
    assert!(line.starts_with("--partner (-p) svr1:19700 is this manager itself; name the other one;"), "{line}");
    for word in ["--read-threads=x\ny", "x\ny", "-x\ny"] {
        let Err(Ended::Usage(line)) = parse::<ServerOptions>(vec![word.into()], &|_| None) else { panic!("{word}") };
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn help_shows_long_names_with_kumofs_spelling_and_version_says_who() {
    let Err(Ended::Answered(help)) = read::<ServerOptions>("-h") else { panic!() };
    for piece in ["--listen <ADDR[:19800]>", "[-gN]", "[-TR]", "KUMO_SOME_NAME", "[default: 19900]"] {
        assert!(help.contains(piece), "{piece} in {help}");
    }
    let version = format!("kumo-gateway {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(read::<GatewayOptions>("-V").unwrap_err(), Ended::Answered(version));
    assert!(matches!(read::<KumofsOptions>("--help"), Err(Ended::Answered(_))));
}

#[test]
fn command_line_comes_before_environment_before_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"listen = 'file'\nverbose = true\nreplace-delay = 7\ncontrol = 1\npartner = ['a', 'b:5']\n")
        .unwrap();
    let path = file.path().to_str().unwrap();
    let environment = [("KUMO_LISTEN", "env"), ("KUMO_CONTROL", "2"), ("KUMO_STATE", "")];
    let o = read_with::<ManagerOptions>(&format!("--config {path} -c 3"), &environment).unwrap();
    assert_eq!((o.listen.to_string().as_str(), o.control, o.replace_delay.as_secs()), ("env:19700", Some(3), 7));
    assert!(o.common.verbose && o.state.is_none());
    assert_eq!(o.partner.iter().map(HostPort::to_string).collect::<Vec<_>>(), ["a:19700", "b:5"]);

    let environment = [("KUMO_CONFIG", path), ("KUMO_VERBOSE", "off"), ("KUMO_PARTNER", "x, y")];
    let o = read_with::<ManagerOptions>("-l cmd", &environment).unwrap();
    assert_eq!((o.listen.to_string().as_str(), o.control, o.common.verbose), ("cmd:19700", Some(1), false));
    assert_eq!(o.partner.iter().map(HostPort::to_string).collect::<Vec<_>>(), ["x:19700", "y:19700"]);
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let fails = |name, value| read_with::<ManagerOptions>(MANAGER, &[(name, value)]).unwrap_err();
    let usage = |line: &str| Ended::Usage(line.to_owned());
    assert_eq!(fails("KUMO_VERBOSE", "maybe"), usage("KUMO_VERBOSE: bad value 'maybe'; write true or false"));
    let line = "KUMO_READ_THREADS: bad value 'x' for --read-threads (-TR): expected a whole number from 1 to 1024";
    assert_eq!(fails("KUMO_READ_THREADS", "x"), usage(line));
}

#[test]
fn mistakes_in_the_file_name_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kumo.toml");
    let missing = error::<ManagerOptions>(&format!("{MANAGER} --config {}", path.display()));
    assert_eq!(
        missing,
        format!("{}: cannot read the configuration: No such file or directory (os error 2)", path.display())
    );
    let cases = [
        ("lisn = 'x'", ": unknown key 'lisn'; keys are the long names of kumo-manager's options"),
        ("config = 'x'", ": unknown key 'config'; keys are the long names of kumo-manager's options"),
        ("listen = 5", ": listen must be a string, not a whole number"),
        ("verbose = 'yes'", ": verbose must be true or false, not a string"),
        ("read-threads = '4'", ": read-threads must be a whole number, not a string"),
        ("read-threads = 0", ": bad value '0' for --read-threads (-TR): expected a whole number from 1 to 1024"),
        ("clock-interval = [1]", ": clock-interval must be a number of seconds, not a list"),
        ("a = 1\nlisten = ", ":2: string values must be quoted, expected literal string"),
    ];
    for (text, line) in cases {
        std::fs::write(&path, text).unwrap();
        let said = error::<ManagerOptions>(&format!("{MANAGER} --config {}", path.display()));
        assert_eq!(said, format!("{}{line}", path.display()), "{text}");
    }
}

#[test]
fn numbers_and_strings_are_both_fine_where_both_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kumo.toml");
    std::fs::write(
        &path,
        "memproto-text = 11311\nmemproto-binary = '0.0.0.0:5'\nmax-value = 4096\nclock-interval = 0.25\n",
    )
    .unwrap();
    let o = read::<GatewayOptions>(&format!("{GATEWAY} --config {}", path.display())).unwrap();
    assert_eq!(o.listeners().iter().map(ListenOn::to_string).collect::<Vec<_>>(), ["11311", "0.0.0.0:5"]);
    assert_eq!((o.max_value, o.common.clock_interval.as_millis()), (Size(4096), 250));
}

#[test]
fn clients_may_be_served_at_many_places_wherever_those_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kumo.toml");
    std::fs::write(
        &path,
        "memproto-text = [11311, 'unix:/run/a']
unix-mode = '0770'
",
    )
    .unwrap();
    let by_file = format!("{GATEWAY} --config {}", path.display());
    let places = |o: &GatewayOptions| o.listeners().iter().map(ListenOn::to_string).collect::<Vec<_>>();
    let o = read::<GatewayOptions>(&by_file).unwrap();
    assert_eq!((places(&o), o.serving.unix_mode), (vec!["11311".to_owned(), "unix:/run/a".to_owned()], Mode(0o770)));
    let environment = [("KUMO_MEMPROTO_TEXT", "unix:/run/b, 5"), ("KUMO_UNIX_MODE", "0777")];
    let o = read_with::<GatewayOptions>(&by_file, &environment).unwrap();
    assert_eq!((places(&o), o.serving.unix_mode), (vec!["unix:/run/b".to_owned(), "5".to_owned()], Mode(0o777)));
    let o = read::<GatewayOptions>(&format!("{by_file} -t 7 -b unix:c -t 8 -b 7")).unwrap();
    assert_eq!(places(&o), ["7", "8", "unix:c"]);
    std::fs::write(
        &path,
        "unix-mode = 0o770
",
    )
    .unwrap();
    let said = error::<GatewayOptions>(&by_file);
    assert!(said.ends_with("unix-mode must be a string, not a whole number"), "{said}");
}

#[test]
fn what_means_nothing_is_named_in_warnings() {
    let o = read::<ServerOptions>("-l s -m m -s d#rcnum=4k -f /tmp -gN 10 -gX 5").unwrap();
    assert_eq!(
        o.warnings(),
        [
            "--store: rcnum without meaning for the log engine, ignored",
            "--offer-tmp: no temporary files are needed, ignored",
            "--garbage-min-time is above --garbage-max-time, which is used for both",
        ]
    );
    assert_eq!(o.garbage_min().as_secs(), 5);
    let gateway = read::<GatewayOptions>("-m m -lc *#bnum=4k").unwrap();
    assert_eq!(gateway.warnings(), ["--local-cache: bnum without meaning, ignored"]);
    assert!(read::<ServerOptions>(SERVER).unwrap().warnings().is_empty());
}
