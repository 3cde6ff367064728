"""Who calls and what they may: keys, tokens, certificates, and the scope of every RPC."""
