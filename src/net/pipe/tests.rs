//! Pipes as a connection sees them: order, patience, ends; between threads, too.

use super::*;
use crate::net::conn::{Conn, Ended, Received, Scratch, read_loop};
use crate::net::cores::event_loop;
use crate::net::turn::Turn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn run(test: impl Future<Output = ()>) {
    let limited = async { tokio::time::timeout(std::time::Duration::from_secs(20), test).await };
    event_loop().unwrap().block_on(limited).expect("the test hangs");
}

#[test]
fn a_writer_waits_for_its_reader_and_all_arrives_in_order() {
    run(async {
        let sent: Vec<u8> = (0..3 * CAPACITY + 7).map(|n| (n % 251) as u8).collect();
        let (ours, theirs) = Pipe::pair();
        let ((mut read, _keep), (_theirs, mut write)) = (ours.into_split(), theirs.into_split());
        let expected = sent.clone();
        let writing = tokio::task::spawn_local(async move { write.write_all(&sent).await });
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        assert!(!writing.is_finished(), "a pipe that nobody reads is full at some time");
        let mut came = Vec::new();
        read.read_to_end(&mut came).await.unwrap();
        writing.await.unwrap().unwrap();
        assert!(came == expected);
    });
}

#[test]
fn the_ends_may_be_in_different_threads() {
    let (ours, theirs) = Pipe::pair();
    let peer = std::thread::spawn(move || {
        run(async move {
            let (mut read, mut write) = theirs.into_split();
            let mut bytes = vec![0; 1000];
            while let Ok(n) = read.read(&mut bytes).await
                && n > 0
            {
                write.write_all(&bytes[..n]).await.unwrap();
            }
        });
    });
    run(async move {
        let (mut read, mut write) = ours.into_split();
        for round in 0..1000u32 {
            write.write_all(&round.to_le_bytes()).await.unwrap();
            assert_eq!(read.read_u32_le().await.unwrap(), round);
        }
    });
    peer.join().unwrap();
}

#[test]
fn an_end_that_is_gone_ends_the_other() {
    run(async {
        let (ours, theirs) = Pipe::pair();
        let turn = Turn::new();
        let turns = tokio::task::spawn_local(turn.clone().run(|| ()));
        let (conn, read) = Conn::new(ours, &turn);
        assert!(!conn.set_nodelay(true), "there is no socket");
        let (mut from_conn, to_conn) = theirs.into_split();
        let reader = conn.clone();
        let reading = tokio::task::spawn_local(async move {
            read_loop(&reader, read, &Scratch::new(), |bytes| Received::used(bytes.len())).await
        });
        conn.write(|out| out.extend_from_slice(b"last words"));
        tokio::task::yield_now().await;
        drop(to_conn);
        assert!(matches!(reading.await.unwrap(), Ended::Eof));
        assert!(conn.is_closed());
        let mut came = Vec::new();
        from_conn.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, b"last words");
        turns.abort();

        let (ours, theirs) = Pipe::pair();
        drop(theirs);
        let (_, mut write) = ours.into_split();
        assert_eq!(write.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_door_leads_to_its_worker_until_it_is_closed() {
    let doors = Doors::default();
    let address = Address::new("127.0.0.1:19800".parse().unwrap());
    assert!(doors.connect(address, 0).is_none());
    let (sender, receiver) = std::sync::mpsc::channel();
    doors.open(address, move |worker, pipe| worker < 2 && sender.send((worker, pipe)).is_ok());
    assert!(doors.connect(address, 1).is_some());
    assert_eq!(receiver.recv().unwrap().0, 1);
    assert!(doors.connect(address, 2).is_none(), "no such worker: nobody would ever answer");
    doors.close(address);
    assert!(doors.connect(address, 1).is_none());
}
