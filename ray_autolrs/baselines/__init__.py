"""What people do without AutoLRS: schedules tuned by hand, and the LR range test."""
