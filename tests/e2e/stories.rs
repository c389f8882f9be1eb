//! The stories of the text protocol, played to a gateway of a cluster and to `kumofs`.

use crate::common::cluster::Cluster;
use crate::common::{Turn, temp_dir};
use crate::onecommand;
use crate::story::{self, Conversation, Side};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const STORIES: &str = include_str!("../vectors/text.txt");

struct Connection(TcpStream);

impl Conversation for Connection {
    fn send(&mut self, bytes: &[u8]) {
        // A server that closes while it is written to is what some stories are about.
        let _ = self.0.write_all(bytes);
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> bool {
        let mut piece = [0; 65536];
        match self.0.read(&mut piece) {
            Ok(len) => {
                into.extend_from_slice(&piece[..len]);
                len > 0
            }
            Err(_) => false,
        }
    }

    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(len) => len == 0,
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

fn play_all(to: SocketAddr) {
    let stories = story::read(STORIES);
    let mut failed = Vec::new();
    for story in stories.iter().filter(|s| s.is_for(Side::Kumofs)) {
        let stream = TcpStream::connect(to).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        // All are played, so that one run tells all that differs.
        let played = std::panic::catch_unwind(|| story::play(story, &mut Connection(stream)));
        failed.extend(played.is_err().then_some(&story.name));
    }
    assert!(failed.is_empty(), "{} of {} stories did not come true: {failed:#?}", failed.len(), stories.len());
}

#[test]
fn stories_come_true_at_a_gateway() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    play_all(cluster.gateway(0));
    cluster.assert_sound();
}

#[test]
fn stories_come_true_at_a_gateway_of_one_server() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 1);
    play_all(cluster.gateway(0));
    cluster.assert_sound();
}

#[test]
fn stories_come_true_at_kumofs() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let (_kumofs, address) = onecommand::start(dir.path(), "stories", &[]);
    play_all(address);
}
