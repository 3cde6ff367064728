"""How many tenants fit a device, from arithmetic and measured steps, before anybody buys one."""
