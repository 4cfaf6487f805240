"""Jobs: what was asked for, admitted, drawn and watched."""
