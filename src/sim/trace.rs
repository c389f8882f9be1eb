//! What happens in a run, as lines for people: the virtual time, the host, and what its log says.

use super::node;
use std::cell::RefCell;
use std::fmt::{self, Write};
use std::rc::Rc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber};

type Lines = Rc<RefCell<Vec<String>>>;

/// Collects what this thread's run logs until the guard is dropped.
pub fn collect(lines: &Lines) -> DefaultGuard {
    SINK.set(Some(lines.clone()));
    tracing::subscriber::set_default(Collector)
}

thread_local! {
    static SINK: RefCell<Option<Lines>> = const { RefCell::new(None) };
}

struct Collector;

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("a string takes everything");
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("kumofs")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let name = node::current().map_or_else(String::new, |node| node.name.clone());
        let micros = node::elapsed_micros();
        let line = format!("{:>9}.{:03} {name:<10} {}", micros / 1000, micros % 1000, text.0);
        SINK.with_borrow(|sink| sink.iter().for_each(|lines| lines.borrow_mut().push(line.clone())));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
