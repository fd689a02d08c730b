"""Programs that show what zml is for."""
