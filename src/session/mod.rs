//! One client's stream: the flow from its bytes to its receipts.
