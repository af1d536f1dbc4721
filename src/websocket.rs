//! The WebSocket layer's limits, the same at both ends: what one end may send, the other must be able to take.

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Bytes of the read buffer of each connection, which it keeps while it is idle: room for some control frames. An output
/// frame takes a few reads. tungstenite's default is 128 KiB.
const READ_BUFFER_BYTES: usize = 2048;
/// Frames of the largest size that may wait for the socket. More mean that the peer does not read.
const FRAMES_WAITING_MAX: usize = 4;

/// Frames that are fed one after the other, and flushed at the end, go out together up to this many bytes.
const WRITE_BUFFER_BYTES: usize = 4096;

/// Limits for frames and messages of at most `frame_bytes_max`. What is sent, and not only fed, is not held back.
pub fn limits(frame_bytes_max: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(FRAMES_WAITING_MAX * frame_bytes_max)
        .max_message_size(Some(frame_bytes_max))
        .max_frame_size(Some(frame_bytes_max))
}
