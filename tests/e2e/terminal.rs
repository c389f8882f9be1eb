//! Tools at a terminal, as a person uses them.

use crate::common::cluster::Cluster;
use crate::common::terminal::Terminal;
use crate::common::{Turn, eventually};

const CLEAR: &[u8] = b"\x1b[2J";
const LEAVE_SCREEN: &[u8] = b"\x1b[?1049l";
const SHOW_CURSOR: &[u8] = b"\x1b[?25h";

#[test]
fn kumotop_is_left_open_resized_and_left() {
    let _turn = Turn::shared();
    let cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    client.set("hot", b"1").expect("it is stored");
    let manager = cluster.manager_address(0).to_string();
    let servers: Vec<String> = (0..3).map(|i| cluster.server_address(i).ip().to_string()).collect();
    let all = |screen: &str| servers.iter().all(|server| screen.contains(server.as_str()));
    let mut terminal = Terminal::start("kumotop", &["-m", &manager], (24, 80));
    let screen = terminal.wait_until("all servers are ready", |screen| screen.matches("ready").count() == 3);
    assert!(all(&screen) && screen.contains("3 servers") && screen.contains("q leave"), "{screen}");

    // It is drawn again and again, and only what changes.
    let clears = terminal.came(CLEAR);
    let requests = |screen: &str| screen.lines().next().map(|line| !line.contains(" 0 requests/s"));
    eventually("requests show up", || {
        client.get("hot").expect("it is answered");
        (requests(&terminal.screen()) == Some(true)).then_some(())
    });
    assert_eq!(terminal.came(CLEAR), clears, "it flickers");

    terminal.resize(10, 40);
    let narrow = |screen: &str| !screen.contains("Set/s") && screen.contains("QPS") && all(screen);
    let screen = terminal.wait_until("it fits into a small window", narrow);
    assert!(screen.lines().count() <= 10, "{screen}");
    terminal.resize(30, 120);
    terminal.wait_for("Set/s");
    terminal.send("r");
    terminal.wait_for("holds 100.0%");
    terminal.send("\x1b");
    terminal.wait_for("Set/s");
    terminal.send("\r");
    terminal.wait_for("hottest keys");
    terminal.send("\x1b");
    terminal.wait_for("Set/s");

    // One that hangs slows no other row.
    cluster.servers[2].freeze();
    eventually("the others go on", || {
        client.get("hot").ok()?;
        let screen = terminal.screen();
        (requests(&screen) == Some(true) && screen.matches("ready").count() == 2).then_some(())
    });
    cluster.servers[2].thaw();
    terminal.send("q");
    assert_eq!(terminal.wait(), Some(0));
    eventually("the terminal is as it was", || {
        (terminal.came(LEAVE_SCREEN) > 0 && terminal.came(SHOW_CURSOR) > 0).then_some(())
    });
}

#[test]
fn kumoctl_asks_a_person_before_a_place_is_given_up() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 4);
    cluster.kill_server(3);
    let address = cluster.server_address(3);
    let manager = cluster.manager_address(0).to_string();
    let size = (24, 120);
    for (answer, says, code) in [("n\n", "nothing was done", 1), ("\n", "nothing was done", 1), ("y\n", "nil", 0)] {
        assert!(cluster.status().is_fault(address));
        let mut terminal = Terminal::start("kumoctl", &[&manager, "detach"], size);
        terminal.wait_for("lose their places, and what no other server holds is lost. Go on? [y/N]");
        terminal.send(answer);
        assert_eq!(terminal.wait(), Some(code));
        terminal.wait_for(says);
    }
    cluster.until("it is detached", |s| s.attached.len() == 3);
    let mut terminal = Terminal::start("kumoctl", &[&manager, "detach", "--yes"], size);
    assert_eq!(terminal.wait(), Some(0));
    let screen = terminal.wait_for("nil");
    assert!(!screen.contains("Go on"), "{screen}");
    let mut terminal = Terminal::start("kumoctl", &[&manager, "status"], size);
    assert_eq!(terminal.wait(), Some(0));
    terminal.wait_for("not attached node:");
}
