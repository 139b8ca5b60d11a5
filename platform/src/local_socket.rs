//! Socket files for programs of the same machine.

use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Waits for programs of this machine. Dropping it removes the socket file.
#[derive(Debug)]
pub struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
}

impl Deref for LocalListener {
    type Target = UnixListener;
    fn deref(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a socket file is left behind");
        }
    }
}

/// Listens on `path`. A file that nobody listens on any more is replaced; anything else that lies there is
/// left alone.
pub(crate) fn listen(path: &Path) -> io::Result<LocalListener> {
    match UnixStream::connect(path) {
        Ok(_) => {
            let text = format!("somebody listens on {} already", path.display());
            return Err(io::Error::new(ErrorKind::AddrInUse, text));
        }
        // A socket whose process is dead, or a file of another kind.
        Err(refused) if refused.kind() == ErrorKind::ConnectionRefused && is_socket(path) => {
            std::fs::remove_file(path)?;
        }
        Err(_) => {}
    }
    let explain =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()));
    let listener = UnixListener::bind(path).map_err(explain)?;
    Ok(LocalListener { listener, path: path.to_owned() })
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::listen;

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = std::env::temp_dir().join(format!("bixi-local-socket-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let living = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(living);
        assert!(!path.exists());
        // A process that was killed leaves its file.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(listen(&path).unwrap());
        std::fs::write(&path, b"something else").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
