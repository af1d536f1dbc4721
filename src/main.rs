//! Composes the roles.

fn main() -> std::process::ExitCode {
    if std::env::args().nth(1).as_deref() == Some("supervise") {
        return std::process::ExitCode::from(u8::try_from(postrider::agent::supervise::main()).unwrap_or(1));
    }
    std::process::ExitCode::SUCCESS
}
