//! `kumoctl drain`: a server leaves while everybody goes on, and is not missed afterwards.

use crate::common::Turn;
use crate::common::cluster::Cluster;
use crate::common::load::Load;

#[test]
fn a_server_is_drained_under_load_and_stopped_without_anybody_noticing() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 4);
    let load = Load::start(cluster.gateway_addresses(), 300, 5);
    load.progress(300);
    let address = cluster.server_address(2).to_string();
    let said = cluster.ctl(&["drain", &address]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "nil\n"), "{said:?}");
    assert!(said.stderr.ends_with(&format!("{address} holds nothing that is needed any more, and can be stopped\n")));
    let said = cluster.ctl(&["status"]).stdout;
    assert!(said.ends_with(&format!("not attached node:\n  {address}\ndrained {address}\n")), "{said}");
    assert_eq!(cluster.status().active(), 3);
    // With auto-replace it stays where the operator wants it.
    let said = cluster.ctl(&["enable-auto-replace"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    load.progress(300);
    cluster.servers[2].kill();
    cluster.until("it is gone", |s| s.not_attached.is_empty());
    load.progress(300);
    let report = load.finish("drain");
    assert_eq!((report.refused, report.unanswered), (0, 0), "{report:?}");
    let said = cluster.ctl(&["check"]);
    assert_eq!(said.code, Some(0), "{said:?}");

    for (words, line) in [
        (vec!["drain"], "drain takes a server, as in `kumoctl MANAGER drain SERVER`"),
        (vec!["drain", address.as_str()], "is not attached"),
        (vec!["status", "--no-wait"], "only backup and drain take --no-wait; see kumoctl --help"),
    ] {
        let said = cluster.ctl(&words);
        assert!(said.code != Some(0) && said.stderr.ends_with(&format!("{line}\n")), "{words:?}: {said:?}");
    }

    // Back again, it takes an operator to attach it.
    cluster.restart_server(2);
    cluster.attach();
    assert_eq!(cluster.status().active(), 4);
    let said = cluster.ctl(&["drain", "--json", &cluster.server_address(1).to_string()]);
    let json: serde_json::Value = serde_json::from_str(&said.stdout).expect("it is JSON");
    assert_eq!(json["drained"], true, "{said:?}");
    cluster.assert_sound();
}
