//! The state of a cluster, closer: kumoctl status -v and watch.

use crate::common::cluster::{Cluster, MANAGER_PORT, show};
use crate::common::process::{Process, run};
use crate::common::{Turn, eventually, program};

#[test]
fn status_with_details_tells_versions_managers_and_how_many_copies_there_are() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 4);
    let plain = cluster.ctl(&["status"]).stdout;
    let said = cluster.ctl(&["status", "-v"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let details = said.stdout.strip_prefix(plain.as_str()).expect("what scripts know comes first");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(details.matches(&format!("  {version}  epoch ")).count(), 4, "{details}");
    assert!(details.contains("(idle)") && details.ends_with("copies of keys:\n  3  100.00%\n"), "{details}");
    eventually("each server has its leases from all others", || {
        (cluster.ctl(&["status", "-v"]).stdout.matches("  waiting 0  leases 3/3\n").count() == 4).then_some(())
    });
    for manager in [0, 1] {
        assert!(details.contains(&format!("  {}  epoch ", cluster.manager_address(manager))), "{details}");
    }

    // Half dead: a server and a manager.
    cluster.kill_server(2);
    cluster.managers[1].kill();
    let said = cluster.ctl(&["status", "--verbose"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("%  (too few)\n"), "{said:?}");
    assert!(said.stdout.contains(&format!("  {}  (cannot connect", cluster.manager_address(1))), "{said:?}");
    let said = cluster.ctl(&["status", "-v", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!((told["servers"].as_array().map(Vec::len), &told["servers"][0]["version"]), (Some(3), &version.into()));
    assert!(told["managers"][1]["error"].is_string() || told["managers"][0]["error"].is_string(), "{told}");
    assert!(told["copies"].as_array().is_some_and(|all| all.iter().any(|one| one["too_few"] == true)), "{told}");
    cluster.servers[3].freeze();
    let said = cluster.ctl(&["status", "-v"]);
    let hung = format!("  {}  (", cluster.server_address(3));
    assert!(said.code == Some(0) && said.stdout.contains(&hung), "{said:?}");
    cluster.servers[3].thaw();
    cluster.ctl(&["replace", "-v"]).complains(2, &["only status takes --verbose"]);
    cluster.assert_sound();
}

#[test]
fn a_watch_tells_each_change_in_a_line() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let manager = show(cluster.manager_address(0), MANAGER_PORT);
    let args = [manager.clone(), "watch".to_owned()];
    let watch = Process::start("watch", &program("kumoctl"), &args, &cluster.dir().join("watch"));
    let one = cluster.server_address(1);
    eventually("all that is there is told", || watch.logged(&format!("  {one}  active"), 0));
    let mark = watch.mark();
    cluster.kill_server(1);
    eventually("a loss is told", || watch.logged(&format!("  {one}  fault"), mark));
    cluster.restart_server(1);
    eventually("a return is told", || watch.logged(&format!("  {one}  fault, back and not attached"), mark));
    let mark = watch.mark();
    cluster.managers[0].kill();
    eventually("a dead manager is told", || watch.logged("  manager  ", mark));
    cluster.restart_manager(0);
    eventually("and its return", || watch.logged("  manager  answers", mark));

    let said = cluster.ctl(&["watch", "--lines", "2", "--json"]);
    assert_eq!((said.code, said.stdout.lines().count()), (Some(0), 2), "{said:?}");
    let first: serde_json::Value = serde_json::from_str(said.stdout.lines().next().expect("a line")).expect("JSON");
    assert!(first["what"].is_string() && first["state"].is_string() && first["time"].is_u64(), "{first}");
    cluster.ctl(&["status", "--lines", "2"]).complains(2, &["only watch takes --lines"]);
    cluster.managers[0].kill();
    run("kumoctl", &[&manager, "watch"], cluster.dir()).complains(1, &["cannot connect", "kumo-manager"]);
}
