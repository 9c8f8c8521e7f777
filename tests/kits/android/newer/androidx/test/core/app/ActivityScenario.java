package androidx.test.core.app;

import android.app.Activity;

/** The signatures that BenchTest.kt uses; nothing of it is run. */
public final class ActivityScenario<A extends Activity> implements java.io.Closeable {
    public interface ActivityAction<A extends Activity> {
        void perform(A activity);
    }

    public static <A extends Activity> ActivityScenario<A> launch(Class<A> activity) {
        throw new UnsupportedOperationException();
    }

    public ActivityScenario<A> onActivity(ActivityAction<A> action) {
        throw new UnsupportedOperationException();
    }

    @Override public void close() {}
}
