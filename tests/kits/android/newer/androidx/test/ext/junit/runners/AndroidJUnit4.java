package androidx.test.ext.junit.runners;

import org.junit.runner.Description;
import org.junit.runner.Runner;
import org.junit.runner.notification.RunNotifier;

/** The signatures that BenchTest.kt uses; nothing of it is run. */
public final class AndroidJUnit4 extends Runner {
    @Override public Description getDescription() { throw new UnsupportedOperationException(); }

    @Override public void run(RunNotifier notifier) { throw new UnsupportedOperationException(); }
}
