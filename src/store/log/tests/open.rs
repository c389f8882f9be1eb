//! Directories that are ours, empty, foreign, in use, or from another time.

use super::super::identity;
use super::*;
use crate::store::fs::RealDisk;

fn refusal(dir: &Path) -> String {
    match LogStore::open(Arc::new(RealDisk), dir, tiny(1)) {
        Err(StoreError::Unusable(text)) => {
            assert!(!text.contains('\n'), "{text}");
            text
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{} was opened", dir.display()),
    }
}

fn real(dir: &Path) -> LogStore {
    LogStore::open(Arc::new(RealDisk), dir, tiny(2)).unwrap()
}

#[test]
fn a_directory_is_made_with_those_above_it_and_keeps_its_disk_id() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("a/b/c");
    let store = real(&dir);
    let id = store.disk_id();
    put(&store, &key(1), &value(1, 5)).unwrap();
    store.close().unwrap();
    drop(store);
    let store = real(&dir);
    assert_eq!((store.disk_id(), store.items()), (id, 1));
    assert_ne!(real(&home.path().join("other")).disk_id(), id);
    assert_eq!(store.dir(), dir);
}

#[test]
fn a_store_that_was_never_written_leaves_no_segments() {
    let home = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        real(home.path()).close().unwrap();
    }
    let mut names: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [identity::IDENTITY, identity::LOCK, super::super::stable::STABLE]);
}

#[test]
fn a_foreign_directory_is_left_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("letter.txt"), "dear").unwrap();
    assert!(refusal(home.path()).contains("letter.txt"));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_directory_in_use_is_refused_and_free_again_after_close_or_death() {
    let home = tempfile::tempdir().unwrap();
    let store = real(home.path());
    assert!(refusal(home.path()).contains("in use"));
    store.close().unwrap();
    let second = real(home.path());
    assert!(refusal(home.path()).contains("in use"));
    drop(second);
    real(home.path());
}

#[test]
fn files_in_place_of_a_directory_are_explained() {
    let home = tempfile::tempdir().unwrap();
    let old = home.path().join("database.tch");
    std::fs::write(&old, b"ToKyO CaBiNeT\n1.0:911\n").unwrap();
    assert!(refusal(&old).contains("kumomergedb"));
    std::fs::write(&old, b"hello").unwrap();
    assert!(refusal(&old).contains("is a file"));
    assert!(refusal(&old.join("below")).contains("cannot open"));
}

#[test]
fn identities_of_others_are_refused_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    real(home.path()).close().unwrap();
    let path = home.path().join(identity::IDENTITY);
    let sealed = |text: &str| format!("{text} {:08x}\n", crc32c::crc32c(format!("{text} ").as_bytes()));
    let good = std::fs::read_to_string(&path).unwrap();
    for (text, hint) in [
        (sealed("kumofs log 2 0123456789abcdef"), "format 2"),
        (sealed("kumofs sled 1 0123456789abcdef"), "-s sled:"),
        (good.replace("log", "lag"), "damaged"),
        (good[..20].to_owned(), "damaged"),
        (String::new(), "damaged"),
        ("\u{0}\u{1}".to_owned(), "damaged"),
    ] {
        std::fs::write(&path, &text).unwrap();
        assert!(refusal(home.path()).contains(hint), "{text:?}: {}", refusal(home.path()));
    }
    std::fs::write(&path, good).unwrap();
    real(home.path());
}

#[test]
fn segments_without_an_identity_are_not_adopted() {
    let home = tempfile::tempdir().unwrap();
    let store = real(home.path());
    put(&store, &key(1), &value(1, 5)).unwrap();
    store.close().unwrap();
    drop(store);
    std::fs::remove_file(home.path().join(identity::IDENTITY)).unwrap();
    assert!(refusal(home.path()).contains("identity file is missing"));
}

#[test]
fn small_files_of_the_role_beside_the_segments_are_left_alone() {
    let home = tempfile::tempdir().unwrap();
    real(home.path()).close().unwrap();
    let names = ["epoch", "epoch.partial", "x.log", "0000000g.log", "1.hint"];
    names.iter().for_each(|name| std::fs::write(home.path().join(name), b"mine").unwrap());
    let store = real(home.path());
    put(&store, &key(1), &value(1, 5)).unwrap();
    store.close().unwrap();
    drop(store);
    let store = real(home.path());
    assert_eq!((store.items(), store.damage()), (1, vec![]));
    names.iter().for_each(|name| assert_eq!(std::fs::read(home.path().join(name)).unwrap(), b"mine"));
}

#[test]
fn rubbish_in_place_of_segments_and_hints_is_reported_and_costs_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let store = real(home.path());
    (0..100).for_each(|n| put(&store, &key(n), &value(1, 50)).unwrap());
    store.close().unwrap();
    drop(store);
    std::fs::write(home.path().join("000000f0.log"), [7; 5000]).unwrap();
    std::fs::write(home.path().join("000000f1.log"), []).unwrap();
    std::fs::write(home.path().join("000000f2.hint"), [7; 5000]).unwrap();
    for entry in std::fs::read_dir(home.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "hint") {
            std::fs::write(path, [9; 300]).unwrap();
        }
    }
    let store = real(home.path());
    assert_eq!(store.items(), 100);
    assert_eq!(store.damage().len(), 1, "{:?}", store.damage());
    put(&store, &key(200), &value(1, 50)).unwrap();
    commit(&store).unwrap();
    assert!(home.path().join("000000f0.log").exists() && !home.path().join("000000f2.hint").exists());
}
