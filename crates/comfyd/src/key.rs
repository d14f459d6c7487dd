//! `comfyd key add|list|revoke`, and the keys of a server that starts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use comfyd_jobs::now_ms;
use comfyd_server::keys::{FOLLOWED, Key, KeyFile, Keys, Scope};
use comfyd_server::{Audit, Record};

use crate::assemble::{Failure, print_line, print_notice};
use crate::config::{Config, KeyAction};

/// Whose key the first one is: the user that there was before there were keys.
const FIRST_USER: &str = "default";

pub(crate) fn act(config: &Config, action: &KeyAction) -> Result<(), Failure> {
    let file = KeyFile::of(&config.roots.user);
    match action {
        KeyAction::Add { user, scope, lasts } => {
            let (key, token) = file.add(user, *scope, *lasts)?;
            written(config, "key add", &key)?;
            print_notice(format_args!("key {} of {user} for '{scope}', {}; it is shown only now:", key.id, until(&key)));
            print_line(token)
        }
        KeyAction::List => {
            for key in file.list()? {
                print_line(format_args!("{}  {:5}  {}, {}", key.id, key.scope, key.user, until(&key)))?;
            }
            Ok(())
        }
        KeyAction::Revoke(name) => {
            let revoked = file.revoke(name)?;
            for key in &revoked {
                written(config, "key revoke", key)?;
            }
            // When this returns, the key opens nothing any more.
            std::thread::sleep(FOLLOWED * 3);
            for key in revoked {
                print_line(format_args!("revoked: {} of {}", key.id, key.user))?;
            }
            Ok(())
        }
    }
}

/// Until when a key is good.
fn until(key: &Key) -> String {
    let Some(end) = key.expires_ms else { return "without an end".to_owned() };
    let left = Duration::from_millis(end.saturating_sub(now_ms()).max(0).unsigned_abs()).as_secs();
    match left {
        0 => "ended".to_owned(),
        1..7_200 => format!("ends in {} minutes", left.div_ceil(60)),
        7_200..172_800 => format!("ends in {} hours", left / 3_600),
        _ => format!("ends in {} days", left / 86_400),
    }
}

fn written(config: &Config, action: &str, key: &Key) -> Result<(), Failure> {
    let record = Record { user: key.user.as_str().into(), key: key.id.clone(), what: vec![key.scope.to_string()], ..Record::of(action) };
    Audit::write(&config.roots.user, &record).map_err(|error| format!("the audit log cannot be written: {error}").into())
}

/// The keys that a server asks for: none on loopback as long as there is none. Beyond it, and behind a proxy, one is made if there is none
/// that is good, and given back to be shown.
pub(crate) fn of_server(config: &Config) -> Result<(Arc<Keys>, Option<String>), Failure> {
    let beyond = !config.listen.iter().all(IpAddr::is_loopback) || !config.trusted_proxies.is_empty();
    if config.insecure {
        if beyond {
            tracing::warn!("--insecure: everybody who reaches this server has everything, and can run what its nodes can");
        }
        return Ok((Arc::default(), None));
    }
    let file = KeyFile::of(&config.roots.user);
    let keys = Keys::open(file.clone(), beyond)?;
    if !beyond || keys.any() {
        return Ok((Arc::new(keys), None));
    }
    let (key, token) = file.add(FIRST_USER, Scope::Admin, None)?;
    written(config, "first key", &key)?;
    Ok((Arc::new(Keys::open(file, beyond)?), Some(token)))
}

/// Shows the first key, once, with the addresses that a browser can be sent to. It does not go into the log, which clients see.
pub(crate) fn show(token: &str, scheme: &str, addresses: &[SocketAddr]) {
    print_notice("\nThis server is reached from other machines, so it asks for a key. There was none; this one is shown only now:\n");
    for address in addresses {
        let host = match address.ip() {
            ip if ip.is_unspecified() && ip.is_ipv4() => IpAddr::from([127, 0, 0, 1]),
            ip if ip.is_unspecified() => continue,
            ip => ip,
        };
        print_notice(format_args!("    {scheme}://{}/?token={token}", SocketAddr::new(host, address.port())));
    }
    print_notice("\nFor others: `comfyd key add NAME`. Without keys: --insecure.\n");
}
