//! A replace under way: what operators see of it.

use crate::common::cluster::Cluster;
use crate::common::{Turn, eventually};

/// Slow enough to be looked at: some seconds for what is stored.
const SLOWLY: &str = "300000";
const RECORDS: usize = 20_000;

fn fill(cluster: &Cluster) {
    let mut client = cluster.client();
    for i in 0..RECORDS {
        client.set(&format!("key-{i}"), &[b'x'; 100]).expect("it is stored");
    }
}

#[test]
fn status_tells_how_far_a_replace_is_behind_the_lines_that_scripts_read() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    fill(&cluster);
    let said = cluster.ctl(&["status"]).stdout;
    assert!(!said.contains("filling"), "{said}");
    cluster.order(&["rate", SLOWLY]);
    let new = cluster.add_server();
    let marks = cluster.manager_marks();
    cluster.order(&["attach"]);
    let address = cluster.server_address(new).to_string();
    let json = || -> serde_json::Value {
        let said = cluster.ctl(&["status", "--json"]).stdout;
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    };
    let told = eventually("half of it is there", || {
        let told = json()["filling"].clone();
        (told[0]["done_ppm"].as_u64()? >= 500_000).then_some(told)
    });
    assert_eq!(told.as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told[0]["address"], address.as_str(), "{told}");
    // Each of three servers sends what it coordinates of what the fourth is to have, before compression.
    let rate = told[0]["bytes_per_sec"].as_u64().expect("it is known");
    assert!((100_000..1_500_000).contains(&rate), "{told}");
    assert!(told[0]["secs_left"].as_u64().is_some_and(|secs| secs <= 30), "{told}");
    let said = cluster.ctl(&["status"]).stdout;
    let (list, more) = said.split_once(&format!("filling {address}: ")).expect("it is told");
    assert!(list.ends_with("not attached node:\n") && more.contains("% done, "), "{said}");
    assert!(more.ends_with(" s left\n"), "{said}");
    cluster.order(&["pause"]);
    let said = cluster.ctl(&["status"]).stdout;
    assert!(said.ends_with(", paused\n"), "{said}");
    cluster.order(&["rate", "unlimited"]);
    cluster.order(&["resume"]);
    cluster.until_replaced(&marks);
    assert_eq!(json()["filling"], serde_json::json!([]));
    cluster.assert_sound();
}
