//! HTTP and WebSocket API
