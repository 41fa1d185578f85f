"""What programs that show maps read: styles, pages and layers that point at a finished map."""
