//! The WebSocket layer's limits, the same at both ends: what one end may send, the other must be able to take.

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Bytes of the read buffer of each connection. tungstenite's default of 128 KiB would cost 138 kB an idle connection
/// instead of 7 (measured with 5,000 connections).
const READ_BUFFER_BYTES: usize = 4096;
/// Frames of the largest size that may wait for the socket. More mean that the peer does not read.
const FRAMES_WAITING_MAX: usize = 4;

/// Limits for frames and messages of at most `frame_bytes_max`. Nothing is held back to be written later.
pub fn limits(frame_bytes_max: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(FRAMES_WAITING_MAX * frame_bytes_max)
        .max_message_size(Some(frame_bytes_max))
        .max_frame_size(Some(frame_bytes_max))
}
