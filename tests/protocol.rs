//! Golden bytes of version 1, as `doc/protocol.md` describes its messages: what is on the wire may not change unnoticed.

use kumofs::logic::record::encode_dbkey;
use kumofs::proto::rpc::v1::{
    Connect, Connected, Mutate, Op, Peer, ReplicateHead, RequestId, write_entry, write_get, write_multi_get_head,
    write_report_head,
};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    out.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn dbkey() -> Vec<u8> {
    let mut out = Vec::new();
    encode_dbkey(b"wirekey", &mut out);
    out
}

const DBKEY: &str = "af667df3131b5ae4d7776972656b6579";

#[test]
fn connect_and_its_answer() {
    let connect = Connect { peer: Peer::Gateway, incarnation: 7, workers: 2, from_worker: 1, worker: 0 };
    assert_eq!(written(|out| connect.write(out, 9)), "940009ce00010000960102070201 00".replace(' ', ""));
    let connected = Connected { incarnation: 5, disk_id: 6, workers: 1, epoch: 300 };
    assert_eq!(written(|out| connected.write(out)), "9501050601cd012c");
}

#[test]
fn gets() {
    assert_eq!(written(|out| write_get(out, 9, 3, &dbkey())), format!("940009ce0001000a9203{DBKEY}"));
    assert_eq!(written(|out| write_multi_get_head(out, 9, 3, 2)), "940009ce0001000b920392");
}

#[test]
fn mutate() {
    let id = RequestId { sequence: 4, attempt: 1, first_epoch: 3, floor: 2 };
    let dbkey = dbkey();
    let mutate = Mutate { epoch: 3, id, op: Op::Cas, options: 1, dbkey: &dbkey, arg: 8, dbval: b"x" };
    assert_eq!(written(|out| mutate.write(out, 9)), format!("940009ce0001000c9a03040103020301{DBKEY}08a178"));
}

#[test]
fn replicate_and_report() {
    let head = ReplicateHead { epoch: 3, stable: 4, first: 5 };
    assert_eq!(written(|out| head.write(out, 9, 1)), "940009ce000100149403040591");
    assert_eq!(written(|out| write_entry(out, &dbkey(), 3, b"x")), format!("93{DBKEY}03a178"));
    assert_eq!(written(|out| write_report_head(out, 9, 3, false, 0)), "940009ce000100159303c290");
}
