//! The configuration file of `serve`: its keys are the flags, and become flags.
//!
//! What it says is put before the command line's own words and parsed with them, so that there is one place that knows
//! what goes together. A flag that was given, or its environment variable, leaves the file's word out.

use super::args::{Cli, ServeArgs, Verb};
use super::config::read_small;
use super::error::CliError;
use crate::log::LogFormat;
use clap::parser::ValueSource;
use clap::{CommandFactory, Parser};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Each key, and what is right for it.
const WANTED: [(&str, &str); 18] = [
    ("data", "give a folder, such as \"/var/lib/postrider\""),
    ("listen", "give an address and a port, such as \"0.0.0.0:7717\""),
    ("public_url", "give an address, such as \"https://msp.example:7717\""),
    ("tls", "give true or false"),
    ("tls_cert", "give a file, such as \"/etc/postrider/chain.pem\""),
    ("tls_key", "give a file, such as \"/etc/postrider/key.pem\""),
    ("acme", "give a list of domains, such as [\"msp.example\"]"),
    ("acme_contact", "give an e-mail address, such as \"ann@msp.example\""),
    ("acme_directory", "give an address that begins with https://"),
    ("behind_proxy", "give true, false, or the proxy's address, such as \"192.0.2.1\""),
    ("confirm_above", "give a number of agents, such as 25"),
    ("approve_above", "give a number of agents, such as 100"),
    ("backup_to", "give a folder, such as \"/srv/backups\""),
    ("backup_every", "give a time, such as \"24h\""),
    ("backup_keep", "give a number of backups, such as 7"),
    ("backup_recipient", "give a list of recipients, such as [\"age1…\"]"),
    ("release_key", "give the second line of the .pub file that `minisign -G` made"),
    ("log", "give \"text\" or \"json\""),
];

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServeFile {
    data: Option<Spanned<PathBuf>>,
    listen: Option<Spanned<SocketAddr>>,
    public_url: Option<Spanned<String>>,
    tls: Option<Spanned<bool>>,
    tls_cert: Option<Spanned<PathBuf>>,
    tls_key: Option<Spanned<PathBuf>>,
    acme: Option<Spanned<Vec<String>>>,
    acme_contact: Option<Spanned<String>>,
    acme_directory: Option<Spanned<String>>,
    behind_proxy: Option<Spanned<BehindProxy>>,
    confirm_above: Option<Spanned<u64>>,
    approve_above: Option<Spanned<u64>>,
    backup_to: Option<Spanned<PathBuf>>,
    backup_every: Option<Spanned<String>>,
    backup_keep: Option<Spanned<u32>>,
    backup_recipient: Option<Spanned<Vec<String>>>,
    release_key: Option<Spanned<String>>,
    log: Option<Spanned<LogFormat>>,
}

/// A flag whose value may be left out: `true` is the flag alone.
#[derive(Debug)]
enum BehindProxy {
    No,
    Here,
    At(IpAddr),
}

impl<'de> Deserialize<'de> for BehindProxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = BehindProxy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or an address")
            }

            fn visit_bool<E: Error>(self, here: bool) -> Result<BehindProxy, E> {
                Ok(if here { BehindProxy::Here } else { BehindProxy::No })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<BehindProxy, E> {
                text.parse().map(BehindProxy::At).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// One key's word.
#[derive(Debug)]
struct Said {
    key: &'static str,
    line: usize,
    flags: Vec<OsString>,
}

impl Said {
    fn flag(&self) -> String {
        flag_of(self.key)
    }
}

fn flag_of(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// Where settings came from, for errors that come later.
#[derive(Debug, Default)]
pub struct Origin {
    path: PathBuf,
    in_force: Vec<(String, &'static str, usize)>,
}

impl Origin {
    /// To be appended to an error: where the flags that it names are set, as far as that is in the file.
    pub fn of(&self, message: &str) -> String {
        let named = |flag: &str| {
            message
                .match_indices(flag)
                .any(|(at, _)| !message[at + flag.len()..].starts_with(|c: char| c == '-' || c.is_ascii_alphanumeric()))
        };
        let file = self.path.display();
        let set = self.in_force.iter().filter(|(flag, ..)| named(flag));
        set.map(|(_, key, line)| format!("\n  `{key}` is set in {file}, line {line}")).collect()
    }
}

/// The arguments of `serve`, with what its file says where the command line says nothing.
///
/// # Errors
/// [`CliError::Usage`]: the file is unreadable or wrong, or does not go with the command line.
pub fn with_file(args: ServeArgs) -> Result<(ServeArgs, Origin), CliError> {
    let Some(path) = args.config.clone() else { return Ok((args, Origin::default())) };
    let line: Vec<_> = std::env::args_os().collect();
    merged(&line, &path)
}

/// The same for a server on this host that another verb is about.
///
/// # Errors
/// [`CliError::Usage`].
pub fn of_server(config: Option<&Path>, data: Option<&Path>) -> Result<(ServeArgs, Origin), CliError> {
    let flags = [("--config", config), ("--data", data)];
    let flags = flags.into_iter().filter_map(|(flag, value)| Some([OsString::from(flag), value?.into()])).flatten();
    let line: Vec<OsString> = ["postrider", "serve"].into_iter().map(OsString::from).chain(flags).collect();
    match (config, Cli::try_parse_from(&line)) {
        (Some(path), _) => merged(&line, path),
        (None, Ok(Cli { verb: Verb::Serve(args) })) => Ok((args, Origin::default())),
        (None, Ok(_)) => Err(CliError::Usage("no server".to_owned())),
        (None, Err(error)) => Err(CliError::Usage(first_words(&error))),
    }
}

fn merged(line: &[OsString], path: &Path) -> Result<(ServeArgs, Origin), CliError> {
    let text = match read_small(path) {
        Ok(Some(text)) => text,
        Ok(None) => return Err(usage(path, "there is no such file; give another with --config, or leave that out")),
        Err(error) => return Err(CliError::Usage(error.to_string())),
    };
    let given = Cli::command().try_get_matches_from(line).map_err(|error| CliError::Usage(first_words(&error)))?;
    let given = given.subcommand_matches("serve");
    let is_given = |key: &str| {
        let source = given.and_then(|serve| serve.value_source(key));
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let mut said = read(&text, path)?;
    said.retain(|said| !is_given(said.key));
    let origin = Origin {
        path: path.to_owned(),
        in_force: said.iter().map(|said| (said.flag(), said.key, said.line)).collect(),
    };
    // Behind the program's name and the verb.
    let (head, tail) = line.split_at(line.len().min(2));
    let flags = said.into_iter().flat_map(|said| said.flags);
    let whole = head.iter().cloned().chain(flags).chain(tail.iter().cloned());
    match Cli::try_parse_from(whole) {
        Ok(Cli { verb: Verb::Serve(args) }) => Ok((args, origin)),
        Ok(_) => Err(usage(path, "only `serve` has a configuration file")),
        Err(error) => {
            // Who needs another flag is in the usage alone.
            let origin = origin.of(&error.to_string());
            Err(CliError::Usage(first_words(&error) + &origin))
        }
    }
}

/// What clap says, without the usage below it.
fn first_words(error: &clap::Error) -> String {
    let text = error.to_string();
    let message = text.split("\n\nUsage").next().unwrap_or_default();
    message.trim_start_matches("error: ").trim().to_owned()
}

fn usage(path: &Path, message: &str) -> CliError {
    CliError::Usage(format!("{}: {message}", path.display()))
}

/// The keys that the file sets, in the order of the flags.
fn read(text: &str, path: &Path) -> Result<Vec<Said>, CliError> {
    let file: ServeFile = toml::from_str(text).map_err(|error| wrong(path, text, &error))?;
    // A path that is not absolute is meant from where the file is, not from where somebody stands.
    let folder = path.parent().unwrap_or(Path::new(""));
    let within = |path: PathBuf| folder.join(path).into_os_string();
    let mut words = Words { text, said: Vec::new() };
    words.add("data", file.data, |path| vec![within(path)]);
    words.add("listen", file.listen, |address| vec![address.to_string().into()]);
    words.add("public_url", file.public_url, |url| vec![url.into()]);
    words.switch("tls", file.tls);
    words.add("tls_cert", file.tls_cert, |path| vec![within(path)]);
    words.add("tls_key", file.tls_key, |path| vec![within(path)]);
    let all = |texts: Vec<String>| texts.into_iter().map(OsString::from).collect();
    words.add("acme", file.acme, all);
    words.add("acme_contact", file.acme_contact, |address| vec![address.into()]);
    words.add("acme_directory", file.acme_directory, |url| vec![url.into()]);
    words.proxy("behind_proxy", file.behind_proxy);
    words.add("confirm_above", file.confirm_above, |number| vec![number.to_string().into()]);
    words.add("approve_above", file.approve_above, |number| vec![number.to_string().into()]);
    words.add("backup_to", file.backup_to, |path| vec![within(path)]);
    words.add("backup_every", file.backup_every, |time| vec![time.into()]);
    words.add("backup_keep", file.backup_keep, |number| vec![number.to_string().into()]);
    words.add("backup_recipient", file.backup_recipient, all);
    words.add("release_key", file.release_key, |key| vec![key.into()]);
    words.add("log", file.log, |format| vec![format.as_str().into()]);
    Ok(words.said)
}

/// Turns keys into flags.
struct Words<'a> {
    text: &'a str,
    said: Vec<Said>,
}

impl Words<'_> {
    /// A flag for each of the key's values.
    fn add<T>(&mut self, key: &'static str, value: Option<Spanned<T>>, values: impl FnOnce(T) -> Vec<OsString>) {
        let Some(value) = value else { return };
        let line = line_of(self.text, value.span().start);
        let with = |value: OsString| {
            let mut flag = OsString::from(flag_of(key) + "=");
            flag.push(value);
            flag
        };
        let flags = values(value.into_inner()).into_iter().map(with).collect();
        self.said.push(Said { key, line, flags });
    }

    /// The flag alone, or nothing.
    fn switch(&mut self, key: &'static str, value: Option<Spanned<bool>>) {
        let Some(value) = value.filter(|value| *value.get_ref()) else { return };
        let line = line_of(self.text, value.span().start);
        self.said.push(Said { key, line, flags: vec![flag_of(key).into()] });
    }

    fn proxy(&mut self, key: &'static str, value: Option<Spanned<BehindProxy>>) {
        let Some(value) = value else { return };
        let span = value.span();
        match value.into_inner() {
            BehindProxy::No => {}
            BehindProxy::Here => self.switch(key, Some(Spanned::new(span, true))),
            BehindProxy::At(ip) => self.add(key, Some(Spanned::new(span, ip)), |ip| vec![ip.to_string().into()]),
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}

/// File, line, key, what is wrong, and what would be right.
fn wrong(path: &Path, text: &str, error: &toml::de::Error) -> CliError {
    let at = error.span().map_or(0, |span| span.start);
    let line = line_of(text, at);
    // A value may begin below its key: the last line before it that is an assignment has the key.
    let lines = text.lines().take(line).map(str::trim_start).filter(|line| !line.starts_with('#'));
    let key = lines.filter_map(|line| line.split_once('=')).last().map_or("", |(key, _)| key.trim());
    let wanted = WANTED.iter().find(|(name, _)| *name == key).map(|(_, wanted)| format!("; {wanted}"));
    let (path, message) = (path.display(), error.message().trim_end());
    let key = if key.is_empty() { String::new() } else { format!(" {key}:") };
    CliError::Usage(format!("{path}, line {line}:{key} {message}{}", wanted.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::LISTEN_DEFAULT;
    use crate::protocol::http::CONFIRM_ABOVE;

    const PACKAGED: &str = include_str!("../../packaging/postrider.toml");

    fn line(words: &str) -> Vec<OsString> {
        words.split(' ').map(OsString::from).collect()
    }

    fn merge(words: &str, text: &str) -> Result<(ServeArgs, Origin), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.toml");
        std::fs::write(&path, text).unwrap();
        let mut all = line(words);
        all.push("--config".into());
        all.push(path.clone().into());
        merged(&all, &path).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string().replace(&path.display().to_string(), "FILE")
        })
    }

    fn keys(text: &str) -> Vec<&'static str> {
        read(text, Path::new("/etc/p.toml")).unwrap().into_iter().map(|said| said.key).collect()
    }

    /// The packaged file with its keys in force.
    fn uncommented() -> String {
        let mark = |line: &str| {
            let rest = line.strip_prefix('#')?;
            rest.starts_with(|c: char| c.is_ascii_lowercase()).then(|| rest.to_owned())
        };
        PACKAGED.lines().map(|line| mark(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = "listen = \"127.0.0.1:1\"\nconfirm_above = 3\nacme = [\"a.example\", \"b.example\"]\ndata = \"d\"\n";
        let (args, _) = merge("postrider serve", "").unwrap();
        assert_eq!((args.listen.to_string().as_str(), args.confirm_above), (LISTEN_DEFAULT, CONFIRM_ABOVE));
        let (args, _) = merge("postrider serve --confirm-above 9", file).unwrap();
        assert_eq!((args.listen.port(), args.confirm_above), (1, 9));
        assert_eq!(args.acme, ["a.example", "b.example"]);
        assert!(args.data.unwrap().is_absolute(), "from where the file is");
        let (args, _) = merge("postrider serve --acme c.example --listen 127.0.0.1:2", file).unwrap();
        assert_eq!((args.listen.port(), args.acme), (2, vec!["c.example".to_owned()]));
    }

    #[test]
    fn a_switch_is_on_off_or_has_a_value() {
        let proxy = |text: &str| merge("postrider serve", text).unwrap().0.behind_proxy;
        assert_eq!(proxy("behind_proxy = false"), None);
        assert_eq!(proxy("behind_proxy = true"), Some(None));
        assert_eq!(proxy("behind_proxy = \"192.0.2.1\""), Some(Some("192.0.2.1".parse().unwrap())));
        assert!(merge("postrider serve", "tls = true").unwrap().0.tls);
        assert!(!merge("postrider serve", "tls = false").unwrap().0.tls);
    }

    #[test]
    fn errors_name_file_line_key_and_what_would_be_right() {
        for (text, parts) in [
            (
                "\n# x = 1\nlisten = \"here\"\n",
                &["FILE, line 3: listen: ", "invalid socket address", "\"0.0.0.0:7717\""][..],
            ),
            ("tls = true\nlisen = \"127.0.0.1:1\"\n", &["FILE, line 2: lisen: unknown field", "`listen`"]),
            ("acme = \"a.example\"\n", &["FILE, line 1: acme: invalid type: string", "a list of domains"]),
            ("confirm_above = -1\n", &["FILE, line 1: confirm_above: ", "-1", "a number of agents"]),
            ("behind_proxy = \"proxy.example\"\n", &["FILE, line 1: behind_proxy: ", "or the proxy's address"]),
            ("log = \"yaml\"\n", &["FILE, line 1: log: unknown variant `yaml`", "\"text\" or \"json\""]),
            ("behind_proxy = 7\n", &["FILE, line 1: behind_proxy: ", "true, false or an address"]),
            ("[server]\nlisten = 1\n", &["FILE, line 1: ", "unknown field `server`"]),
            ("tls = true\ntls = true\n", &["FILE, line 2: tls: duplicate key"]),
            ("listen\n", &["FILE, line 1:"]),
            ("acme_contact = \"a@b\"\n", &["--acme", "required", "`acme_contact` is set in FILE, line 1"]),
            ("behind_proxy = true\n\ntls = true\n", &["cannot be used with", "`tls` is set in FILE, line 3"]),
        ] {
            let message = merge("postrider serve", text).unwrap_err();
            for part in parts {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
        let message = merge("postrider serve --tls", "behind_proxy = true").unwrap_err();
        assert!(message.contains("`behind_proxy` is set in FILE, line 1") && message.contains("--tls"), "{message}");
        let message = merged(&line("postrider serve"), Path::new("/nonexistent/p.toml")).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/p.toml: there is no such file") && message.contains("--config"));
    }

    #[test]
    fn what_the_server_finds_wrong_later_is_told_with_its_place() {
        let (_, origin) = merge("postrider serve", "\ntls_cert = \"a\"\ntls_key = \"b\"\n").unwrap();
        assert!(origin.of("--tls-cert, --tls-key: no PEM").contains("`tls_cert` is set in "));
        assert_eq!(origin.of("--tls, --tls-certs and --listen are other flags"), "");
    }

    #[test]
    fn the_packaged_file_changes_nothing_and_has_every_key() {
        assert!(keys(PACKAGED).is_empty());
        let set: Vec<_> =
            toml::from_str::<toml::Table>(&uncommented()).unwrap().into_iter().map(|(key, _)| key).collect();
        let mut known: Vec<_> = WANTED.iter().map(|(key, _)| (*key).to_owned()).collect();
        known.sort();
        assert_eq!(set, known);
        // Each is known to the struct, and its value fits.
        let file: ServeFile = toml::from_str(&uncommented()).unwrap();
        assert_eq!(file.listen.unwrap().into_inner().to_string(), LISTEN_DEFAULT);
        assert_eq!(file.confirm_above.unwrap().into_inner(), CONFIRM_ABOVE);
        assert!(!file.tls.unwrap().into_inner());
        let Err(error) = toml::from_str::<ServeFile>("? = 1").or_else(|_| toml::from_str::<ServeFile>("x = 1")) else {
            panic!("no key has that name")
        };
        let mut fields: Vec<_> = error.message().split('`').skip(3).step_by(2).map(str::to_owned).collect();
        fields.sort();
        assert_eq!(fields, known);
    }

    #[test]
    fn every_flag_that_is_not_for_one_start_has_a_key() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let flags = serve.get_arguments().filter(|flag| !flag.is_hide_set()).map(|flag| flag.get_id().as_str());
        let flags: Vec<_> =
            flags.filter(|flag| !["config", "check", "new_owner_token", "help"].contains(flag)).collect();
        assert_eq!(
            flags,
            WANTED.map(|(key, _)| key),
            "a flag of `serve` has a key here and in packaging/postrider.toml"
        );
    }
}
