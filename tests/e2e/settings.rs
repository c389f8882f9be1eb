//! `kumoctl config`: settings of running daemons.

use crate::common::Turn;
use crate::common::cluster::Cluster;
use crate::common::eventually;
use crate::common::process::run;

#[test]
fn settings_are_shown_and_changed_while_daemons_run() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 3);
    let said = cluster.ctl(&["config"]).stdout;
    let (changeable, fixed) = said.split_once("since its start:\n").expect("both are told");
    assert!(changeable.starts_with("can be changed:\n  auto-replace  false\n  log-level  "), "{said}");
    assert!(fixed.contains(&format!("  listen  {}\n", cluster.manager_address(0).ip())), "{said}");

    // What is the cluster's is changed everywhere.
    cluster.order(&["config", "auto-replace", "on"]);
    for manager in 0..2 {
        eventually("both managers replace by themselves", || {
            (cluster.ctl_at(manager, &["config", "auto-replace"]).stdout == "true\n").then_some(())
        });
    }
    cluster.order(&["config", "replace-delay", "1"]);
    assert_eq!(cluster.ctl(&["config", "replace-delay"]).stdout, "1\n");

    // A log that says nothing does not even tell that it will, and one that says all does.
    let mark = cluster.managers[1].mark();
    assert_eq!(cluster.ctl_at(1, &["config", "log-level", "off"]).code, Some(0));
    assert_eq!(cluster.ctl_at(1, &["config", "replace-delay", "2"]).code, Some(0));
    assert_eq!(cluster.ctl_at(1, &["config", "log-level", "info"]).code, Some(0));
    cluster.managers[1].wait_for("log-level is info from now on", mark);
    assert!(!cluster.managers[1].log_since(mark).contains("replace-delay is 2"));

    let server = cluster.server_address(0).to_string();
    let dir = cluster.dir().to_owned();
    let at_server = |words: &[&str]| run("kumoctl", &[&[server.as_str()], words].concat(), &dir);
    let json: serde_json::Value = serde_json::from_str(&at_server(&["config", "--json"]).stdout).expect("it is JSON");
    assert_eq!(json["garbage-max-time"], serde_json::json!({"value": "3600", "changeable": true}));
    assert_eq!(json["max-value"]["changeable"], false);
    assert_eq!(at_server(&["config", "garbage-mem-limit", "64"]).stdout, "nil\n");
    assert_eq!(at_server(&["config", "garbage-mem-limit"]).stdout, "64\n");
    for (words, line) in [
        (["config", "max-value", "2m"], "max-value cannot be changed while it runs; start it with another"),
        (["config", "nonsense", "1"], "there is no setting nonsense"),
        (["config", "garbage-max-time", "1.5"], "'1.5' is no whole number from 0 to 315360000"),
        (["config", "log-level", "loud"], "a level is off, error, warn, info, debug or trace, not 'loud'"),
    ] {
        let said = at_server(&words);
        assert_eq!((said.code, said.stderr), (Some(1), format!("kumoctl: {line}\n")), "{words:?}");
    }
    cluster.assert_sound();
}
