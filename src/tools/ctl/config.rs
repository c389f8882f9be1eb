//! `kumoctl ADDR config [NAME [VALUE]]`: the settings of a running manager or server, and changing some of them.

use crate::proto::rpc::msgpack::{DecodeError, Head, Reader, write_array, write_raw};
use crate::proto::rpc::settings::{Setting, read_list};
use crate::proto::rpc::{error, v1};
use crate::tools::Trouble;
use crate::tools::ask::{self, AskError, MANAGER_PORT, Node, Role};
use serde_json::{Map, Value, json};

/// What is asked for.
pub(super) struct Order {
    pub daemon: String,
    pub name: Option<String>,
    pub value: Option<String>,
    pub json: bool,
}

/// Runs it.
///
/// # Errors
/// When the daemon does not answer, knows no such setting, or refuses the value.
pub(super) async fn run(order: &Order) -> Result<(), Trouble> {
    let node = Node::connect(ask::address(&order.daemon, MANAGER_PORT)?, Role::Manager).await?;
    let mut params = Vec::new();
    match (&order.name, &order.value) {
        (Some(name), Some(value)) => {
            write_array(&mut params, 2);
            write_raw(&mut params, name.as_bytes());
            write_raw(&mut params, value.as_bytes());
        }
        _ => write_array(&mut params, 0),
    }
    let result = match node.call(v1::method::CONFIG, &params).await {
        Err(AskError::Refused(_, error::PROTOCOL)) => {
            return Err(Trouble::Failed(format!("{} is an older version, which tells no settings", node.address())));
        }
        result => result?,
    };
    let broken = |e: DecodeError| Trouble::Failed(format!("{} answered what is no answer: {e}", node.address()));
    let mut reader = Reader::new(&result);
    if order.value.is_some() {
        return match reader.head().map_err(broken)? {
            Head::Nil => {
                crate::tools::print(if order.json { "{\"result\":null}\n" } else { "nil\n" });
                Ok(())
            }
            _ => {
                let why = Reader::new(&result).raw().map_err(broken)?;
                Err(Trouble::Failed(String::from_utf8_lossy(why).into_owned()))
            }
        };
    }
    let settings = read_list(&mut reader).map_err(broken)?;
    crate::tools::print(&shown(&settings, order.name.as_deref(), order.json)?);
    Ok(())
}

fn shown(settings: &[Setting], name: Option<&str>, as_json: bool) -> Result<String, Trouble> {
    if let Some(name) = name {
        let setting = settings.iter().find(|setting| setting.name == name);
        let setting = setting.ok_or_else(|| Trouble::Failed(format!("there is no setting {name}")))?;
        return Ok(match as_json {
            true => format!("{}\n", json!({"name": name, "value": setting.value, "changeable": setting.changeable})),
            false => format!("{}\n", setting.value),
        });
    }
    if as_json {
        let one = |s: &Setting| (s.name.clone(), json!({"value": s.value, "changeable": s.changeable}));
        let all: Map<String, Value> = settings.iter().map(one).collect();
        return Ok(format!("{}\n", Value::Object(all)));
    }
    let mut out = String::new();
    for (heading, changeable) in [("can be changed:", true), ("since its start:", false)] {
        out.push_str(&format!("{heading}\n"));
        for Setting { name, value, .. } in settings.iter().filter(|s| s.changeable == changeable) {
            out.push_str(format!("  {name}  {value}").trim_end());
            out.push('\n');
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shown_by_what_can_be_done_about_them() {
        let setting = |name: &str, value: &str, changeable| Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            changeable,
        };
        let settings = [setting("auto-replace", "false", true), setting("listen", "svr1", false)];
        let text = "can be changed:\n  auto-replace  false\nsince its start:\n  listen  svr1\n";
        assert_eq!(shown(&settings, None, false).as_deref(), Ok(text));
        assert_eq!(shown(&settings, Some("listen"), false).as_deref(), Ok("svr1\n"));
        assert!(shown(&settings, Some("listne"), false).is_err());
        let json: Value = serde_json::from_str(&shown(&settings, None, true).unwrap()).unwrap();
        assert_eq!(json["auto-replace"], json!({"value": "false", "changeable": true}));
    }
}
