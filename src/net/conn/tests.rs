//! Connections over loopback: batches, partial messages, peers that do not read.

use super::*;
use crate::net::cores::event_loop;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Runs a test with the two ends of a connection: ours as a `Conn` with its reading half, and the peer's stream.
fn with_pair<F: Future<Output = ()>>(test: impl FnOnce(Rc<Conn>, ReadHalf, TcpStream) -> F) {
    event_loop().unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let turn = Turn::new();
        tokio::task::spawn_local(turn.clone().run(|| ()));
        let (conn, read) = Conn::new(ours, &turn);
        tokio::time::timeout(Duration::from_secs(20), test(conn, read, peer)).await.expect("the test hangs");
    });
}

/// Messages of the tests: a length byte, then so many bytes; echoed whole.
fn echo(conn: &Rc<Conn>, bytes: &[u8]) -> Received {
    let mut used = 0;
    while let Some(&len) = bytes.get(used) {
        let Some(message) = bytes.get(used..used + 1 + usize::from(len)) else {
            return Received { used, need: 1 + usize::from(len), then: Then::Read };
        };
        conn.write(|out| out.extend_from_slice(message));
        used += message.len();
    }
    Received::used(used)
}

#[test]
fn messages_cut_anywhere_come_back_whole() {
    with_pair(|conn, read, mut peer| async move {
        let loops = tokio::task::spawn_local(async move {
            let echoed = conn.clone();
            read_loop(&conn, read, &Scratch::new(), |bytes| echo(&echoed, bytes)).await
        });
        let sent: Vec<u8> = (0..100u8).flat_map(|n| std::iter::once(n).chain((0..n).rev())).collect();
        for chunk in sent.chunks(7) {
            peer.write_all(chunk).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut came = vec![0; sent.len()];
        peer.read_exact(&mut came).await.unwrap();
        assert_eq!(came, sent);
        drop(peer);
        assert!(matches!(loops.await.unwrap(), Ended::Eof));
    });
}

#[test]
fn output_that_the_peer_does_not_read_waits_and_then_arrives() {
    const LEN: usize = 30 << 20;
    with_pair(|conn, read, mut peer| async move {
        conn.write(|out| out.resize(LEN, b'x'));
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(conn.backlog() > 0, "the system takes less than all at once");
        conn.close_when_written();
        let mut came = Vec::new();
        peer.read_to_end(&mut came).await.unwrap();
        assert_eq!(came.len(), LEN);
        assert!(conn.is_closed());
        drop(read);
    });
}

#[test]
fn a_waiting_reader_goes_on_where_it_stopped() {
    with_pair(|conn, read, mut peer| async move {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (log, reader) = (seen.clone(), conn.clone());
        tokio::task::spawn_local(async move {
            let receive = |bytes: &[u8]| {
                log.borrow_mut().push(bytes.len());
                if log.borrow().len() == 1 { Received::wait(1) } else { Received::used(bytes.len()) }
            };
            read_loop(&reader, read, &Scratch::new(), receive).await
        });
        peer.write_all(b"abcdef").await.unwrap();
        while seen.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        peer.write_all(b"ghi").await.unwrap();
        conn.resume();
        while seen.borrow().iter().skip(1).sum::<usize>() < 8 {
            tokio::task::yield_now().await;
        }
        assert_eq!(seen.borrow()[..2], [6, 5], "what was left is shown again before anything new");
    });
}

#[test]
fn closing_from_here_ends_the_reading_loop() {
    with_pair(|conn, read, peer| async move {
        let closer = conn.clone();
        let scratch = Scratch::new();
        let reading = read_loop(&conn, read, &scratch, |bytes| Received::used(bytes.len()));
        let (ended, ()) = tokio::join!(reading, async move { closer.close() });
        assert!(matches!(ended, Ended::Closed));
        drop(peer);
    });
}

/// Runs beside a connection, and tells how much it got on at most between two of its turns.
async fn longest_step(mut done: impl FnMut() -> usize, until: usize) -> usize {
    let (mut last, mut longest) = (done(), 0);
    while last < until {
        tokio::task::yield_now().await;
        let now = done();
        longest = longest.max(now - last);
        last = now;
    }
    longest
}

#[test]
fn who_reads_a_long_message_lets_others_have_their_turn() {
    const LEN: usize = 64 << 20;
    with_pair(|conn, read, peer| async move {
        let mut peer = peer.into_std().unwrap();
        peer.set_nonblocking(false).unwrap();
        let sending = std::thread::spawn(move || std::io::Write::write_all(&mut peer, &vec![b'x'; LEN]).map(|()| peer));
        let seen = Rc::new(Cell::new(0));
        let log = seen.clone();
        tokio::task::spawn_local(async move {
            let receive = |bytes: &[u8]| {
                log.set(bytes.len());
                Received { used: 0, need: LEN, then: Then::Read }
            };
            read_loop(&conn, read, &Scratch::new(), receive).await
        });
        let longest = longest_step(|| seen.get(), LEN).await;
        assert!(longest <= 2 * TURN_BYTES, "{longest} bytes at once");
        drop(sending.join().unwrap());
    });
}

#[test]
fn who_writes_a_long_message_lets_others_have_their_turn() {
    const LEN: usize = 64 << 20;
    with_pair(|conn, read, peer| async move {
        let mut peer = peer.into_std().unwrap();
        peer.set_nonblocking(false).unwrap();
        let reading = std::thread::spawn(move || std::io::Read::read_exact(&mut peer, &mut vec![0; LEN]));
        conn.write(|out| out.resize(LEN, b'x'));
        let longest = longest_step(|| LEN - conn.backlog(), LEN).await;
        // The end of the turn writes, and then the task that goes on.
        assert!(longest <= 2 * TURN_BYTES, "{longest} bytes at once");
        reading.join().unwrap().unwrap();
        drop(read);
    });
}

#[test]
fn long_pieces_come_in_their_place_and_let_go_of_what_they_held() {
    struct Held(Rc<Cell<usize>>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    const LEN: usize = 3 << 20;
    with_pair(|conn, read, mut peer| async move {
        let dropped = Rc::new(Cell::new(0));
        let piece = |byte: u8| Piece::new(Rc::new(vec![byte; LEN]), LEN / 2, Held(dropped.clone()));
        conn.write(|out| out.extend_from_slice(b"first"));
        conn.write_piece(piece(b'a'));
        conn.write_piece(piece(b'b'));
        conn.write(|out| out.extend_from_slice(b"mid"));
        conn.write(|out| out.extend_from_slice(b"dle"));
        conn.write_piece(piece(b'c'));
        assert_eq!(conn.backlog(), 5 + LEN / 2 * 3 + 6);
        conn.write(|out| out.extend_from_slice(b"last"));
        let half = |byte: u8| vec![byte; LEN / 2];
        let all = [&b"first"[..], &half(b'a'), &half(b'b'), b"middle", &half(b'c'), b"last"].concat();
        let mut came = vec![0; all.len()];
        peer.read_exact(&mut came).await.unwrap();
        assert!(came == all);
        while conn.backlog() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(dropped.get(), 3);
        conn.write(|out| out.extend_from_slice(b"again"));
        let mut came = [0; 5];
        peer.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"again");
        conn.write_piece(piece(b'd'));
        conn.close();
        conn.write_piece(piece(b'e'));
        assert_eq!(dropped.get(), 5, "what is not written any more is let go, too");
        drop(read);
    });
}

#[test]
fn long_output_is_taken_at_once_and_only_the_rest_of_it_waits() {
    with_pair(|conn, read, mut peer| async move {
        let long = vec![b'x'; 64 << 10];
        conn.write(|out| out.extend_from_slice(b"head"));
        conn.write_through(&long, b"tail");
        assert_eq!(conn.backlog(), 0, "nothing is left to the end of the turn");
        conn.write(|out| out.extend_from_slice(b"next"));
        conn.write_through(&long, b"");
        assert_eq!(conn.backlog(), 0);
        let huge = vec![b'y'; 30 << 20];
        conn.write_through(&huge, b"end");
        let waits = conn.backlog();
        assert!((4..huge.len()).contains(&waits), "{waits} bytes are left, and the last ones among them");
        conn.write(|out| out.extend_from_slice(b"more"));
        conn.write_through(&long, b"last");
        assert_eq!(conn.backlog(), waits + 4 + long.len() + 4, "what comes behind does not overtake");
        let all = [b"head", &long[..], b"tailnext", &long, &huge, b"endmore", &long, b"last"].concat();
        let mut came = vec![0; all.len()];
        peer.read_exact(&mut came).await.unwrap();
        assert!(came == all);
        while conn.backlog() > 0 {
            tokio::task::yield_now().await;
        }
        conn.write_piece(Piece::new(Rc::new(long.clone()), 0, ()));
        conn.write_through(&long, b"behind");
        let mut came = vec![0; 2 * long.len() + 6];
        peer.read_exact(&mut came).await.unwrap();
        assert!(came == [&long[..], &long, b"behind"].concat());
        conn.close();
        conn.write_through(&long, b"never");
        drop(read);
    });
}

#[test]
fn input_that_is_kept_is_there_when_it_has_been_received_and_the_rest_is_shown_again() {
    const LEN: usize = 5 << 20;
    with_pair(|conn, read, mut peer| async move {
        let kept: Rc<RefCell<Vec<Kept>>> = Rc::default();
        let (keeper, log) = (conn.clone(), kept.clone());
        let rest = Rc::new(Cell::new(0));
        let seen = rest.clone();
        tokio::task::spawn_local(async move {
            keeper.expect(LEN);
            let reader = keeper.clone();
            let receive = move |bytes: &[u8]| {
                let need = if log.borrow().is_empty() { LEN } else { 10 };
                if bytes.len() < need {
                    return Received { used: 0, need, then: Then::Read };
                }
                if log.borrow().len() < 2 {
                    log.borrow_mut().push(keeper.keep_input());
                } else {
                    seen.set(bytes.len());
                }
                Received::used(need)
            };
            read_loop(&reader, read, &Scratch::new(), receive).await
        });
        let mut sent = vec![b'x'; LEN];
        sent.extend_from_slice(b"0123456789");
        peer.write_all(&sent).await.unwrap();
        while kept.borrow().len() < 2 || kept.borrow()[1].get().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(kept.borrow()[0].get().unwrap()[..] == sent[..LEN]);
        assert_eq!(kept.borrow()[1].get().unwrap(), b"0123456789");
        peer.write_all(b"abcdefghij").await.unwrap();
        while rest.get() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rest.get(), 10);
    });
}

/// Parts of large values went to and fro between two roles of one thread, and small requests waited in their sockets until 61 tasks
/// had had their turn.
#[test]
fn pipes_that_are_always_busy_do_not_keep_sockets_waiting() {
    const MESSAGE_LEN: usize = 128 << 10;
    with_pair(|conn, read, peer| async move {
        let (one, other) = crate::net::pipe::Pipe::pair();
        let turn = Turn::new();
        tokio::task::spawn_local(turn.clone().run(|| ()));
        let (exchanged, mut peer) = (Rc::new(Cell::new(0)), Some(peer.into_std().unwrap()));
        for pipe in [one, other] {
            let (end, read) = Conn::new(pipe, &turn);
            let (count, mut sender) = (exchanged.clone(), peer.take());
            if sender.is_some() {
                end.write(|out| out.resize(MESSAGE_LEN, 0));
            }
            tokio::task::spawn_local(async move {
                let writer = end.clone();
                let (mut came, mut _sent) = (0, None);
                let receive = |bytes: &[u8]| {
                    came += bytes.len();
                    if came == MESSAGE_LEN {
                        came = 0;
                        count.set(count.get() + 1);
                        if let Some(mut socket) = sender.take_if(|_| count.get() >= 50) {
                            std::io::Write::write_all(&mut socket, b"x").unwrap();
                            count.set(0);
                            // Closed, it would bring an end, too.
                            _sent = Some(socket);
                        }
                        writer.write(|out| out.resize(MESSAGE_LEN, 0));
                    }
                    Received::used(bytes.len())
                };
                read_loop(&end, read, &Scratch::new(), receive).await
            });
        }
        let seen = Rc::new(Cell::new(None));
        let receiver = conn.clone();
        let receive = |bytes: &[u8]| {
            seen.set(Some(exchanged.get()));
            receiver.close();
            Received::used(bytes.len())
        };
        read_loop(&conn, read, &Scratch::new(), receive).await;
        let waited = seen.get().expect("it was received");
        assert!(waited <= 6, "{waited} messages went through the pipe before one from a socket was looked at");
    });
}
