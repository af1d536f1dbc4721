//! `postrider audit export`: the rows as they are, to a reader or into a file that grows with the chain.

use super::audit::rows_after;
use super::audit_verify::{Broken, EXIT_BROKEN, Verify, read_row};
use super::client::ApiClient;
use super::error::CliError;
use super::out;
use crate::protocol::audit::AuditRow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// All rows, one a line. They are not checked: a broken chain is evidence, too.
///
/// # Errors
/// [`CliError`].
pub async fn to_stdout(client: &ApiClient) -> Result<u8, CliError> {
    let mut after = 0;
    loop {
        let page = rows_after(client, after).await?;
        page.rows.iter().try_for_each(out::json)?;
        match page.next {
            Some(next) => after = next,
            None => return Ok(0),
        }
    }
}

/// Adds the rows that are missing in the file. What it has must be the beginning of the server's chain, and what is
/// added must continue it.
///
/// # Errors
/// [`CliError::File`]: it is something else, or cannot be written. Then it is as it was.
pub async fn to_file(client: &ApiClient, path: &Path) -> Result<u8, CliError> {
    let wrong = |message: String| CliError::File { path: path.to_owned(), message };
    let (file, mut verify) = open(path).map_err(wrong)?;
    let had = verify.rows();
    let mut writer = BufWriter::new(file);
    let mut result = same_until_here(client, &verify).await?;
    while result.is_ok() {
        let page = rows_after(client, verify.rows()).await?;
        for row in &page.rows {
            result = verify.take(row);
            if result.is_err() {
                break;
            }
            write(&mut writer, row).map_err(|error| wrong(error.to_string()))?;
        }
        if page.next.is_none() || page.rows.is_empty() {
            break;
        }
    }
    let written = writer.into_inner().map_err(io::Error::from).and_then(|file| file.sync_all());
    written.map_err(|error| wrong(error.to_string()))?;
    match result {
        Ok(()) => {
            out::note(&format!("{} rows added; head {}", verify.rows() - had, verify.head()));
            Ok(0)
        }
        Err(broken) => {
            out::note(&format!("postrider: the server's audit does not continue {}: {broken}", path.display()));
            out::note(&format!("  the file holds together: {}; keep it", verify.head()));
            Ok(EXIT_BROKEN)
        }
    }
}

/// Whether the server's chain is still the one of the file.
async fn same_until_here(client: &ApiClient, file: &Verify) -> Result<Result<(), Broken>, CliError> {
    let rows = file.rows();
    if rows == 0 {
        return Ok(Ok(()));
    }
    let page = rows_after(client, rows - 1).await?;
    Ok(match page.rows.first() {
        None => Err(Broken::Shorter { noted: rows, rows: rows - 1 }),
        Some(row) if file.head() == format!("{}:{}", row.seq, row.hash) => Ok(()),
        Some(_) => Err(Broken::OtherHead(rows)),
    })
}

fn write(writer: &mut impl Write, row: &AuditRow) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, row)?;
    writer.write_all(b"\n")
}

/// Opens the file, or makes it, and reads what it has; the place to write is behind that. A last line without an end is
/// what an interrupted export leaves, and goes.
fn open(path: &Path) -> Result<(File, Verify), String> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let said = |error: io::Error| error.to_string();
    let mut file = options.open(path).map_err(said)?;
    if !file.metadata().map_err(said)?.is_file() {
        return Err("it is no file; without a name the rows go to standard output".to_owned());
    }
    file.try_lock().map_err(|error| format!("another export is writing it, or it cannot be locked: {error}"))?;
    let (mut verify, mut end, mut line) = (Verify::default(), 0, Vec::new());
    let mut reader = BufReader::new(&file);
    while reader.read_until(b'\n', &mut line).map_err(said)? > 0 {
        let number = verify.rows() + 1;
        if line.last() != Some(&b'\n') && number > 1 {
            break;
        }
        let taken = read_row(number, &line).and_then(|row| verify.take(&row));
        taken
            .map_err(|broken| format!("{broken}: it is no export of an audit, or was changed; it is left as it is"))?;
        end += line.len() as u64;
        line.clear();
    }
    if line.is_empty() {
        file.seek(SeekFrom::End(0)).map_err(said)?;
    } else {
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(said)?;
    }
    Ok((file, verify))
}
