"""What serving costs and gains: many clients at one server, beside one at a time and beside peers; and chaos."""
