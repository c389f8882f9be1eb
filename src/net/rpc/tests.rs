use super::*;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

const SECOND: Duration = Duration::from_secs(1);

fn address(text: &str) -> Address {
    Address::new(text.parse().unwrap())
}

/// Runs a scenario on a runtime of its own; one that hangs fails.
fn run(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { time::timeout(20 * SECOND, scenario).await.expect("the scenario hangs") };
    LocalSet::new().block_on(&runtime, bounded);
}

/// Keeps what happened, and answers method 0 with its params, 1 never, 2 with a megabyte, others with error 5.
#[derive(Clone, Default)]
struct Seen {
    log: Rc<RefCell<Vec<String>>>,
    waiting: Rc<RefCell<Vec<Reply>>>,
    news: Rc<Notify>,
}

impl Seen {
    fn handler(&self) -> Handler {
        let seen = self.clone();
        Rc::new(move |_: &RpcConn, event: Event| {
            let line = match event {
                Event::Opened(peer) => format!("opened {peer:?}"),
                Event::Closed(why) => format!("closed: {why}"),
                Event::Request(Incoming { method, params, reply }) => {
                    match method {
                        0 => reply.success(|out| out.extend_from_slice(&params)),
                        1 => seen.waiting.borrow_mut().push(reply),
                        2 => reply.success(|out| crate::proto::rpc::msgpack::write_raw(out, &vec![0; 1 << 20])),
                        _ => reply.protocol_error(),
                    }
                    format!("request {method}")
                }
            };
            seen.log.borrow_mut().push(line);
            seen.news.notify_one();
        })
    }

    async fn wait_for(&self, line: &str) {
        while !self.log.borrow().iter().any(|l| l.contains(line)) {
            self.news.notified().await;
        }
    }
}

/// Accepts one connection as a server at 127.0.0.1:19801.
async fn listening(at: &str, limits: Limits) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind(at).await.unwrap();
    let to = listener.local_addr().unwrap();
    let seen = Seen::default();
    let handler = seen.handler();
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        RpcConn::accept(stream, (address("127.0.0.1:19801"), Role::Server), limits, handler);
    });
    (to, seen)
}

/// Sends bytes over a plain socket; returns what comes until the other side closes.
async fn raw(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset ends it as well.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[test]
fn nodes_greet_each_other_and_both_may_ask() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        run(async {
            let (to, callee) = listening(at, Limits::default()).await;
            let caller = Seen::default();
            let own = (address("[::1]:19700"), Role::Manager);
            let conn = RpcConn::connect_node(to, own, SECOND, Limits::default(), caller.handler()).await.unwrap();
            assert_eq!(conn.call(0, |out| out.extend([0x91, 7]), SECOND).await, Ok(vec![0x91, 7]));
            caller.wait_for("opened Node(127.0.0.1:19801, Server)").await;
            callee.wait_for("opened Node([::1]:19700, Manager)").await;
            assert_eq!(conn.peer(), Some(Peer::Node(address("127.0.0.1:19801"), Role::Server)));

            let answer = conn.call(1, |out| out.push(0x90), SECOND);
            callee.wait_for("request 1").await;
            let reply = callee.waiting.borrow_mut().pop().unwrap();
            let back = reply.conn.call(0, |out| out.extend([0x91, 8]), SECOND).await;
            assert_eq!(back, Ok(vec![0x91, 8]));
            reply.error_with(6, |out| out.push(9));
            assert_eq!(answer.await, Err(CallError::Refused(6, vec![9])));

            conn.close();
            caller.wait_for("closed by us").await;
            callee.wait_for("closed by the peer").await;
            assert_eq!(conn.call(0, |out| out.push(0x90), SECOND).await, Err(CallError::Lost));
        });
    }
}

#[test]
fn the_golden_unknown_method_is_answered_and_hung_up_on() {
    run(async {
        let (to, seen) = listening("127.0.0.1:0", Limits::default()).await;
        let asked = [&[0x94, 0, 7, 55, 0x90][..], &[0x94, 0, 8, 0, 0x90]].concat();
        assert_eq!(raw(to, &asked).await, [0x94, 1, 7, 5, 0xc0]);
        seen.wait_for("closed").await;
        assert_eq!(*seen.log.borrow(), ["opened Client", "request 55", "closed: closed by us"]);
    });
}

#[test]
fn the_golden_hello_is_answered_with_ours() {
    run(async {
        let (to, _) = listening("127.0.0.1:0", Limits::default()).await;
        let mut bytes = vec![0x93, 2, 0xa6, 0x4c, 0xf4, 127, 0, 0, 1, 0];
        bytes.extend([0x94, 0, 7, 55, 0x90]);
        let answer = raw(to, &bytes).await;
        assert_eq!(answer, [0x93, 2, 0xa6, 0x4d, 0x59, 127, 0, 0, 1, 1, 0x94, 1, 7, 5, 0xc0]);
    });
}

#[test]
fn rubbish_is_hung_up_on() {
    let hello = [0x93, 2, 0xa6, 0x4d, 0x59, 127, 0, 0, 1, 1];
    let rubbish: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x94, 1, 7, 0xc0, 0xc0],
        &[0x93, 2, 0xa3, 1, 2, 3, 1],
        &[0x94, 0, 7, 0, 0xc0],
        &[0x94, 0, 0, 0, 0xdb, 0xff, 0xff, 0xff, 0xff],
        &[hello, hello].concat(),
        &[0x94, 0xc1],
    ];
    for bytes in rubbish {
        run(async {
            let (to, seen) = listening("127.0.0.1:0", Limits::default()).await;
            let answer = raw(to, bytes).await;
            assert!(answer.is_empty() || answer == hello, "{bytes:02x?} was answered {answer:02x?}");
            seen.wait_for("closed: malformed").await;
        });
    }
}

#[test]
fn a_message_in_single_bytes_is_one_message_all_the_same() {
    run(async {
        let (to, seen) = listening("127.0.0.1:0", Limits::default()).await;
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in [0x94, 0, 7, 0, 0x91, 0xa3, b'a', b'b', b'c'] {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = [0; 9];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x94, 1, 7, 0xc0, 0x91, 0xa3, b'a', b'b', b'c']);
        // The end of its stream is the end.
        drop(stream);
        seen.wait_for("closed by the peer").await;
    });
}

#[test]
fn a_request_before_the_half_close_is_answered() {
    run(async {
        let (to, _) = listening("127.0.0.1:0", Limits::default()).await;
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(&[0x94, 0, 7, 0, 0x90]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [0x94, 1, 7, 0xc0, 0x90]);
    });
}

#[test]
fn too_long_a_message_is_refused_when_that_much_came() {
    run(async {
        let limits = Limits { frame: 1000, ..Limits::default() };
        let (to, seen) = listening("127.0.0.1:0", limits).await;
        let mut bytes = vec![0x94, 0, 7, 0, 0x91, 0xda, 0xff, 0xff];
        bytes.resize(1200, 0);
        assert_eq!(raw(to, &bytes).await, Vec::<u8>::new());
        seen.wait_for("closed: malformed input: a message longer").await;
    });
}

#[test]
fn a_client_may_send_less_at_once_than_a_node() {
    let hello = [0x93, 2, 0xa6, 0x4d, 0x59, 127, 0, 0, 1, 1];
    let mut large = vec![0x94, 0, 7, 0, 0x91, 0xdb, 0, 1, 0x11, 0x70];
    large.resize(10 + 70_000, 7);
    run(async {
        let (to, seen) = listening("127.0.0.1:0", Limits::default()).await;
        assert!(raw(to, &large).await.is_empty());
        seen.wait_for("closed: malformed input: a message longer").await;
    });
    run(async {
        let (to, _) = listening("127.0.0.1:0", Limits::default()).await;
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(&[&hello[..], &large].concat()).await.unwrap();
        let mut answer = vec![0; 10 + large.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert!(answer.ends_with(&large[4..]));
    });
}

#[test]
fn one_who_never_reads_its_answers_is_read_no_further() {
    run(async {
        let (to, seen) = listening("127.0.0.1:0", Limits::default()).await;
        let mut stream = TcpStream::connect(to).await.unwrap();
        for _ in 0..200 {
            stream.write_all(&[0x94, 0, 7, 2, 0x90]).await.unwrap();
        }
        // Two messages that are certainly handled after what the first reads brought, then nothing moves.
        let mut handled = 0;
        loop {
            time::sleep(Duration::from_millis(50)).await;
            let now = seen.log.borrow().len();
            if now == handled {
                break;
            }
            handled = now;
        }
        assert!(handled < 150, "{handled} answers of a megabyte each were made for a peer that reads none");
        let mut one = vec![0; 200 << 20];
        stream.read_exact(&mut one).await.unwrap();
    });
}

#[test]
fn one_who_never_reads_what_it_did_not_ask_for_is_hung_up_on() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let seen = Seen::default();
        let to = listener.local_addr().unwrap();
        let conn = RpcConn::connect_client(to, SECOND, Limits::default(), seen.handler()).await.unwrap();
        let (_unread, _) = listener.accept().await.unwrap();
        for _ in 0..100 {
            conn.notify(3, |out| crate::proto::rpc::msgpack::write_raw(out, &vec![0; 1 << 20]));
            tokio::task::yield_now().await;
        }
        assert_eq!(conn.closed().await, Closed::Unread);
        seen.wait_for("closed: the peer does not read").await;
    });
}

#[test]
fn calls_end_by_time_and_by_loss() {
    run(async {
        let (to, callee) = listening("127.0.0.1:0", Limits::default()).await;
        let seen = Seen::default();
        let conn = RpcConn::connect_client(to, SECOND, Limits::default(), seen.handler()).await.unwrap();
        let late = conn.call(1, |out| out.push(0x90), Duration::from_millis(20)).await;
        assert_eq!(late, Err(CallError::Timeout));
        let lost = conn.call(1, |out| out.push(0x90), 20 * SECOND);
        callee.wait_for("request 1").await;
        while callee.waiting.borrow().len() < 2 {
            callee.news.notified().await;
        }
        callee.waiting.borrow()[0].conn.close();
        assert_eq!(lost.await, Err(CallError::Lost));
        assert_eq!(conn.0.calls.borrow().len(), 0);
    });
}

#[test]
fn a_reply_that_is_dropped_answers_unknown() {
    run(async {
        let (to, callee) = listening("127.0.0.1:0", Limits::default()).await;
        let conn = RpcConn::connect_client(to, SECOND, Limits::default(), Seen::default().handler()).await.unwrap();
        let answer = conn.call(1, |out| out.push(0x90), SECOND);
        callee.wait_for("request 1").await;
        callee.waiting.borrow_mut().clear();
        assert_eq!(answer.await, Err(CallError::Refused(error::UNKNOWN, vec![0xc0])));
    });
}
